// What an operation costs as live mappings, queues, devices and domains grow. A program of its own, run on the built
// packages by `bench scale`, once for each subject and backend. Prints a line of JSON for each figure.
import type { ScaleResult } from '@guestdma/bench'
import { endWithParent, turn } from '@guestdma/bench/program'
import { devices, queueSizes } from './scale-machines.ts'
import { mappings } from './scale-mappings.ts'
import type { Grown } from './scale-measure.ts'

const SUBJECTS: Readonly<Record<string, (backend: string) => AsyncGenerator<Grown>>> = {
  mappings,
  queues: queueSizes,
  devices: (backend) => devices('devices', backend),
  domains: (backend) => devices('domains', backend),
}

endWithParent()
const [, , subject, backend] = process.argv
const smallest = new Map<string, number>()
for await (const grown of SUBJECTS[subject](backend)) {
  const { what, detail, size, value, unit } = grown
  const key = `${what} ${detail}`
  const first = smallest.get(key) ?? value
  smallest.set(key, first)
  const result: ScaleResult = { what, backend, detail, size, value, unit, ratio: value / first }
  process.stdout.write(`${JSON.stringify(result)}\n`)
  await turn()
}
process.exit()
