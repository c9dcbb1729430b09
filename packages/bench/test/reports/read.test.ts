import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type ReportError, readGate, readReport } from '@guestdma/bench'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { noAmounts } from '../../src/exposure/classes.ts'
import { reportOf, row } from '../support/cost-rows.ts'

let file: string
beforeEach(() => {
  file = join(mkdtempSync(join(tmpdir(), 'guestdma-read-test-')), 'report.json')
})
afterEach(() => rmSync(join(file, '..'), { recursive: true }))

const thrown = (read: (path: string) => unknown, content: unknown): unknown => {
  writeFileSync(file, typeof content === 'string' ? content : JSON.stringify(content))
  try {
    return read(file)
  } catch (error) {
    return error
  }
}

// A field is set to what JSON can hold, and `undefined` takes it out.
const GONE = undefined
const set = (whole: object, path: string, value: unknown): unknown => {
  const copy = JSON.parse(JSON.stringify(whole))
  const names = path.split('.')
  let at = copy as Record<string, unknown>
  for (const name of names.slice(0, -1)) at = at[name] as Record<string, unknown>
  at[names[names.length - 1]] = value
  return copy
}

const QUANTILES = { median: 2, p05: 1, p95: 3 }
const REPORT = {
  ...reportOf([row({ processMedians: [100, 110] }), row({ bytes: 128 })]),
  shard: { index: 1, of: 2, total: 4 },
  failures: [{ subject: row({ bytes: 256 }), message: 'it ended' }],
  exposure: [
    {
      ...{ driver: 'net', operation: 'transmit', backend: 'direct', mode: 'map', ring: 'split', bytes: 64 },
      setting: { ramBytes: 1 << 20, perSecond: 1e6, ringFill: 0.5, seconds: 1 },
      readable: noAmounts(),
      writable: noAmounts(),
      beforeAttach: { readable: 0, writable: 0 },
      probes: { tried: 1, read: 0, written: 0, refused: 1 },
    },
  ],
  threads: [
    {
      ...{ backend: 'direct', ring: 'split', bytes: 64, batch: 32, oneCore: 1, twoCores: 2 },
      ...{ latencyOneCore: QUANTILES, latencyTwoCores: QUANTILES, handshake: QUANTILES, handshakeAsleep: QUANTILES },
    },
  ],
  scale: [{ what: 'devices', backend: 'direct', detail: 'hot', size: 1, value: 90, unit: 'ns', ratio: 1 }],
}

describe('a report', () => {
  test('is given back whole', () => {
    expect(thrown(readReport, REPORT)).toEqual(REPORT)
  })

  test('may have fields that this program does not know', () => {
    expect(thrown(readReport, set(REPORT, 'results.0.later', 1))).toMatchObject({ complete: true })
  })

  test('may come from a Node that does not tell what is allocated', () => {
    const read = thrown(readReport, set(REPORT, 'results.0.bytesAllocatedPerOperation', Number.NaN))
    expect(read).toMatchObject({ results: [{ bytesAllocatedPerOperation: Number.NaN }, {}] })
  })

  test.each<[string, unknown, string, string]>([
    ['complete', GONE, 'complete: nothing', 'true or false'],
    ['environment', 'here', 'environment: "here"', 'an object'],
    ['environment.node', 26, 'environment.node: 26', 'a text'],
    ['environment.cores', 1.5, 'environment.cores: 1.5', 'a whole number from 0 on'],
    ['shard.index', 0, 'shard.index: 0', 'a whole number from 1 on'],
    ['shard.total', -1, 'shard.total: -1', 'a whole number from 0 on'],
    ['results', GONE, 'results: nothing', 'a list'],
    ['results', { 0: row() }, 'results: {"0":{"driver":"net"', 'a list'],
    ['results.1', null, 'results[1]: null', 'an object'],
    ['results.1.ring', 'double', 'results[1].ring: "double"', "'split' or 'packed'"],
    ['results.1.backend', GONE, 'results[1].backend: nothing', 'a text'],
    ['results.1.nsPerOperation.median', 0, 'results[1].nsPerOperation.median: 0', 'a number above 0'],
    ['results.1.nsPerOperation.p95', null, 'results[1].nsPerOperation.p95: null', 'a number above 0'],
    ['results.0.driverShare', 1.1, 'results[0].driverShare: 1.1', 'a number from 0 to 1'],
    ['results.0.processMedians', [], 'results[0].processMedians: []', 'a list of at least 1'],
    ['results.0.processMedians.1', '110', 'results[0].processMedians[1]: "110"', 'a number above 0'],
    ['results.0.bytesAllocatedPerOperation', -1, 'bytesAllocatedPerOperation: -1', 'a number from 0 on'],
    ['results.0.counters', [], 'results[0].counters: []', 'an object'],
    ['results.0.counters.notified', 'x', 'results[0].counters.notified: "x"', 'a number'],
    ['results.1.bytes', 64, 'results[1]: "net transmit', 'a case that results[0] is not'],
    ['failures.0.subject.batch', 0, 'failures[0].subject.batch: 0', 'a whole number from 1 on'],
    ['exposure.0.readable.slack', GONE, 'exposure[0].readable.slack: nothing', 'a number from 0 on'],
    ['exposure.0.probes.tried', 0.5, 'exposure[0].probes.tried: 0.5', 'a whole number from 0 on'],
    ['threads.0.handshake.median', 0, 'threads[0].handshake.median: 0', 'a number above 0'],
    ['scale.0.what', 'ghosts', 'scale[0].what: "ghosts"', "'live-mappings' or 'queue-size'"],
  ])('whose %s is %j is refused by file, field and what was found', (path, value, found, needed) => {
    const error = thrown(readReport, set(REPORT, path, value)) as ReportError
    expect(error).toMatchObject({ code: 'REPORT_FIELD', part: file })
    expect(error.message).toContain(found)
    expect(error.message).toContain(` was found, and ${needed}`)
  })

  test('is quoted in part, and without what would control a terminal', () => {
    const { message } = thrown(readReport, set(REPORT, 'complete', `\u001b[31m\u009b31m${'x'.repeat(500)}`)) as Error
    expect(message).not.toMatch(/\p{Cc}/u)
    expect(message.length).toBeLessThan(file.length + 150)
  })

  test.each([
    ['{ "schema": "guestdma-bench-2" }', '"guestdma-bench-2" was found as its schema'],
    ['{ "schema": ["guestdma-bench-3"] }', '["guestdma-bench-3"] was found as its schema'],
    ['[]', 'nothing was found as its schema'],
    ['null', 'nothing was found as its schema'],
    ['{ "schema": "guestdma-be', 'the file is not JSON'],
    ['', 'the file is not JSON'],
  ])('is not what holds %j', (text, message) => {
    const error = thrown(readReport, text) as ReportError
    expect(error.code).toBe('REPORT_SCHEMA')
    expect(error.message).toContain(message)
    expect(error.message).toContain("'guestdma-bench-3'")
  })

  test('that cannot be read is refused', () => {
    expect(() => readReport(join(file, '../none.json'))).toThrow(expect.objectContaining({ code: 'REPORT_FILE' }))
    expect(() => readReport(join(file, '..'))).toThrow(expect.objectContaining({ code: 'REPORT_FILE' }))
  })
})

describe('a gate', () => {
  const { backend, nsPerOperation, samples, bytesAllocatedPerOperation, counters, ...work } = row()
  const gate = {
    schema: 'guestdma-gate-1',
    gates: [{ ...work, against: 'direct', ratioAtMost: { none: 0.05 }, heapBytesAtMost: { none: 0 } }],
  }

  test('is given back whole', () => {
    expect(thrown(readGate, gate)).toEqual(gate)
  })

  test.each<[string, unknown, string]>([
    ['gates', [], 'gates: [] was found, and a list of at least 1 is needed'],
    ['gates.0.against', GONE, 'gates[0].against: nothing was found, and a text is needed'],
    ['gates.0.ratioAtMost', {}, 'gates[0].ratioAtMost: {} was found, and an object of at least 1 field is needed'],
    ['gates.0.ratioAtMost.none', 0, 'gates[0].ratioAtMost.none: 0 was found, and a number above 0 is needed'],
    ['gates.0.heapBytesAtMost.none', -1, 'gates[0].heapBytesAtMost.none: -1 was found, and a number from 0 on'],
    ['gates.0.heapBytesAtmost', { none: 0 }, 'gates[0].heapBytesAtmost: {"none":0} was found, and no other field than'],
    ['gate', 1, 'gate: 1 was found, and no other field than schema, gates is needed'],
  ])('whose %s is %j is refused', (path, value, message) => {
    expect(thrown(readGate, set(gate, path, value))).toMatchObject({
      code: 'REPORT_FIELD',
      message: expect.stringContaining(message),
    })
  })

  test('is no report', () => {
    expect(thrown(readGate, REPORT)).toMatchObject({ code: 'REPORT_SCHEMA' })
  })
})
