import {
  DMA_OK,
  type DmaBackend,
  type DmaDirection,
  type DmaMappings,
  type DmaRegion,
  type DmaStatus,
} from '@guestdma/dma'
import { hex } from '@guestdma/memory'
import { type CHECK_CODES, CheckError } from './errors.ts'
import { ForwardingBackend } from './forwarding-backend.ts'

// What is known of a row. A row that was never mapped has no record.
interface RowRecord {
  state: 'live' | 'failed' | 'unmapped' | 'quarantined'
  guest: number
  length: number
  direction: number
  device: number
  deviceLength: number
  token: number
}

const COLUMNS = ['guest', 'length', 'direction', 'device', 'deviceLength', 'token'] as const

/**
 * Wraps any backend, knows every live mapping and throws where its *caller* breaks the contract, as Linux's dma-debug
 * does: a {@link CheckError}, whose codes are in `CHECK_CODES`.
 *
 * It allocates on the data path: for tests only.
 */
export class CheckedBackend extends ForwardingBackend {
  private readonly tables = new Map<DmaMappings, Map<number, RowRecord>>()
  private readonly regions = new Set<DmaRegion>()
  private disposed = false
  // A commit of unmaps failed: who is told so leaves its regions alone until dispose.
  private unconfirmed = false

  /** Mappings that the device holds now. */
  get liveMappings(): number {
    return this.count('live')
  }

  /** Mappings that were unmapped and not committed yet. */
  get uncommitted(): number {
    return this.count('unmapped')
  }

  /** Regions that were `alloc`ed and not freed. */
  get liveRegions(): number {
    return this.regions.size
  }

  override alloc(length: number, align: number, direction: DmaDirection, use: 'ring' | 'payload'): DmaRegion {
    this.alive('alloc')
    const region = super.alloc(length, align, direction, use)
    this.regions.add(region)
    return region
  }

  override free(region: DmaRegion): void {
    this.alive('free')
    if (!this.regions.delete(region))
      this.fail('CHECK_FREE', `the region at ${hex(region.device)} is not allocated`, { device: region.device })
    super.free(region)
  }

  override map(m: DmaMappings, row: number): DmaStatus {
    this.alive('map')
    const rows = this.rowsOf(m)
    const before = rows.get(row)
    const details = { row, guest: m.guest[row], length: m.length[row], direction: m.direction[row] }
    if (!(row >= 0 && row < m.rows))
      this.fail('CHECK_NOT_MAPPED', `there is no row ${row} in a table of ${m.rows}`, details)
    if (before?.state === 'live') this.fail('CHECK_MAPPED', `row ${row} is mapped already`, details)
    if (before?.state === 'unmapped')
      this.fail('CHECK_REUSE', `row ${row} is mapped again before its unmap was committed`, details)
    if (before?.state === 'quarantined')
      this.fail('CHECK_REUSE', `row ${row} is mapped again though the commit of its unmap failed`, details)
    if (m.length[row] === 0) this.fail('CHECK_LENGTH', `row ${row} lends no byte`, details)
    if (m.direction[row] < 1 || m.direction[row] > 3)
      this.fail('CHECK_DIRECTION', `row ${row} has direction ${m.direction[row]}`, details)
    const status = super.map(m, row)
    rows.set(row, snapshot(m, row, status === DMA_OK ? 'live' : 'failed'))
    return status
  }

  override unmap(m: DmaMappings, row: number, written: number): DmaStatus {
    this.alive('unmap')
    const record = this.live(m, row, 'unmap')
    if (!Number.isInteger(written) || written < 0 || written > record.length) {
      this.fail(
        'CHECK_WRITTEN',
        `row ${row} lends ${record.length} bytes, of which ${written} cannot have been written`,
        { row, written, length: record.length },
      )
    }
    const status = super.unmap(m, row, written)
    record.state = 'unmapped'
    return status
  }

  override syncForDevice(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
    this.checkSync(m, row, offset, length)
    return super.syncForDevice(m, row, offset, length)
  }

  override syncForCpu(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
    this.checkSync(m, row, offset, length)
    return super.syncForCpu(m, row, offset, length)
  }

  override commitMaps(): DmaStatus {
    this.alive('commitMaps')
    return super.commitMaps()
  }

  override commitUnmaps(): DmaStatus {
    this.alive('commitUnmaps')
    const status = super.commitUnmaps()
    if (status !== DMA_OK) this.unconfirmed = true
    for (const rows of this.tables.values()) {
      for (const [row, record] of rows) {
        if (record.state !== 'unmapped') continue
        if (status === DMA_OK) rows.delete(row)
        else record.state = 'quarantined'
      }
    }
    return status
  }

  /**
   * Disposes the wrapped backend; throws `CHECK_LEAK` where the callers left something mapped, uncommitted or
   * allocated. Regions may be left where a commit of unmaps has failed.
   */
  override dispose(): void {
    this.alive('dispose')
    const { liveMappings, uncommitted } = this
    const liveRegions = this.unconfirmed ? 0 : this.liveRegions
    super.dispose()
    this.disposed = true
    if (liveMappings + uncommitted + liveRegions > 0) {
      const message = `left behind: ${liveMappings} mappings, ${uncommitted} uncommitted unmaps, ${liveRegions} regions`
      this.fail('CHECK_LEAK', message, { liveMappings, uncommitted, liveRegions })
    }
  }

  private checkSync(m: DmaMappings, row: number, offset: number, length: number): void {
    this.alive('sync')
    const record = this.live(m, row, 'sync')
    if (!(offset >= 0 && length >= 0 && offset + length <= record.length)) {
      this.fail('CHECK_SYNC', `[${offset}, ${offset + length}) is outside the ${record.length} bytes of row ${row}`, {
        row,
        offset,
        length,
      })
    }
  }

  private live(m: DmaMappings, row: number, verb: string): RowRecord {
    const record = this.rowsOf(m).get(row)
    if (record === undefined || record.state === 'unmapped' || record.state === 'quarantined') {
      this.fail('CHECK_NOT_MAPPED', `${verb} of row ${row}, which is not mapped`, { row })
    }
    if (record.state === 'failed')
      this.fail('CHECK_UNCHECKED', `${verb} of row ${row}, whose map did not return Ok`, { row })
    for (const column of COLUMNS) {
      if (m[column][row] === record[column]) continue
      this.fail(
        'CHECK_CHANGED',
        `${column} of row ${row} was ${record[column]} at map and is ${m[column][row]} at ${verb}`,
        { row, column },
      )
    }
    return record
  }

  private rowsOf(m: DmaMappings): Map<number, RowRecord> {
    const known = this.tables.get(m)
    if (known !== undefined) return known
    const rows = new Map<number, RowRecord>()
    this.tables.set(m, rows)
    return rows
  }

  private count(state: RowRecord['state']): number {
    let count = 0
    for (const rows of this.tables.values()) for (const record of rows.values()) if (record.state === state) count++
    return count
  }

  private alive(verb: string): void {
    if (this.disposed) this.fail('CHECK_DISPOSED', `${verb} after dispose`, { verb })
  }

  private fail(code: keyof typeof CHECK_CODES, message: string, details: Readonly<Record<string, unknown>>): never {
    throw new CheckError(code, `checked ${this.name}`, message, details)
  }
}

/** Wraps a backend; see {@link CheckedBackend}. */
export function checked(backend: DmaBackend): CheckedBackend {
  return new CheckedBackend(backend)
}

function snapshot(m: DmaMappings, row: number, state: RowRecord['state']): RowRecord {
  return {
    state,
    guest: m.guest[row],
    length: m.length[row],
    direction: m.direction[row],
    device: m.device[row],
    deviceLength: m.deviceLength[row],
    token: m.token[row],
  }
}
