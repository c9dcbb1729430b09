import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'

const main = fileURLToPath(new URL('../src/main.ts', import.meta.url))

test.each(['mmio', 'pci'])(
  'everything arrives over %s, though nothing is polled and devices are rebooted',
  async (transport) => {
    // A wake-up that is lost leaves the program with nothing to do: it ends with exit code 13, and this rejects.
    const { stdout } = await promisify(execFile)(process.execPath, [main, '--transport', transport, '--json'])
    const result = JSON.parse(stdout) as { turns: number; frames: number; repeated: number; sectors: number }
    expect(result).toMatchObject({ transport, frames: 2000, sectors: 400 })
    expect(result.repeated).toBeGreaterThan(0)
    expect(result.turns).toBeLessThan(1000)
  },
)
