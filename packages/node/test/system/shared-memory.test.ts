import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { GuestMemory, guestAddress } from '@guestdma/memory'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { SharedMemory } from '../../src/index.ts'
import { missing, titled } from '../support/system.ts'

let dir: string
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'guestdma-'))
})
afterAll(() => rmSync(dir, { recursive: true }))

function fileOf(bytes: number): string {
  const path = join(dir, `file-${bytes}`)
  writeFileSync(path, Buffer.alloc(bytes))
  return path
}

describe.skipIf(missing !== '')(titled('SharedMemory'), () => {
  it('of a file: what is stored is in the file, and the other way round', () => {
    const path = fileOf(8192)
    using memory = SharedMemory.open(path)
    using again = SharedMemory.open(path)
    expect([memory.bytes, memory.buffer.byteLength, memory.name]).toEqual([8192, 8192, path])
    new Uint8Array(memory.buffer).set([1, 2, 3], 5000)
    expect([...readFileSync(path).subarray(5000, 5003)]).toEqual([1, 2, 3])
    expect([...new Uint8Array(again.buffer, 5000, 3)]).toEqual([1, 2, 3])
  })

  it('of a memfd: zeroes that another mapping of its descriptor shares, and nobody can shorten', () => {
    using memory = SharedMemory.create('pool', 4096)
    expect(new Uint8Array(memory.buffer).every((byte) => byte === 0)).toBe(true)
    const path = `/proc/self/fd/${memory.fd}`
    using other = SharedMemory.open(path)
    new Uint8Array(other.buffer)[7] = 9
    expect(new Uint8Array(memory.buffer)[7]).toBe(9)
    expect(() => truncateSync(path, 16)).toThrow(/EPERM/)
  })

  it('maps a descriptor that was received, a part of it where that was asked for, and owns it', () => {
    const fd = openSync(fileOf(12_288), 'r+')
    const memory = SharedMemory.from(fd, { bytes: 4096, name: 'received' })
    expect([memory.name, memory.fd, memory.buffer.byteLength]).toEqual(['received', fd, 4096])
    memory.close()
    expect(() => closeSync(fd)).toThrow(/EBADF/)
  })

  it('serves as the memory of a guest, unchanged', () => {
    using shared = SharedMemory.create('ram', 1 << 20)
    const memory = new GuestMemory([{ base: 0x8000_0000, length: 1 << 20, memory: shared.buffer }])
    memory.write(guestAddress(0x8000_1000), Uint8Array.of(4, 5, 6))
    expect([...memory.read(guestAddress(0x8000_1001), 2)]).toEqual([5, 6])
    expect([...new Uint8Array(shared.buffer, 0x1000, 3)]).toEqual([4, 5, 6])
  })

  it('when closed leaves no view behind: guest memory over it says so, its regions are empty', () => {
    const shared = SharedMemory.create('ram', 1 << 20)
    const memory = new GuestMemory([{ base: 0x8000_0000, length: 1 << 20, memory: shared.buffer }])
    const { region } = memory.window(guestAddress(0x8000_0000), 16)
    const view = new Uint8Array(shared.buffer, 16, 16)
    shared.close()
    shared.close()
    expect([shared.fd, shared.buffer.byteLength, view.length, region.u8.length, region.u32[4]]).toEqual([
      -1,
      0,
      0,
      0,
      undefined,
    ])
    const detached = expect.objectContaining({ code: 'MEMORY_DETACHED' })
    expect(() => memory.read(guestAddress(0x8000_0000), 4)).toThrow(detached)
    expect(() => memory.write(guestAddress(0x8000_0000), Uint8Array.of(1))).toThrow(detached)
    expect(() => memory.refresh()).toThrow(detached)
    expect(() => new GuestMemory([{ base: 0, length: 16, memory: shared.buffer }])).toThrow(detached)
  })

  it('leaves a buffer alone that somebody transferred', () => {
    const shared = SharedMemory.create('ram', 4096)
    const moved = (shared.buffer as ArrayBuffer & { transfer(): ArrayBuffer }).transfer()
    shared.close()
    new Uint8Array(moved)[0] = 1
    expect(new Uint8Array(moved)[0]).toBe(1)
  })

  it.each([0, -1, 1.5, Number.NaN, '4096'])('of %s bytes is refused', (bytes) => {
    expect(() => SharedMemory.create('m', bytes as number)).toThrow(
      expect.objectContaining({ code: 'NODE_LENGTH', part: 'm', details: { bytes } }),
    )
  })

  it('refuses an empty file, more bytes than the file has, and a file that is not there', () => {
    expect(() => SharedMemory.open(fileOf(0))).toThrow(expect.objectContaining({ code: 'NODE_LENGTH' }))
    const fd = openSync(fileOf(64), 'r+')
    expect(() => SharedMemory.from(fd, { bytes: 65 })).toThrow(
      expect.objectContaining({ code: 'NODE_LENGTH', details: { bytes: 65, length: 64 } }),
    )
    expect(() => closeSync(fd)).toThrow(/EBADF/)
    expect(() => SharedMemory.open(join(dir, 'nothing'))).toThrow(
      expect.objectContaining({ code: 'NODE_SYSCALL', details: { call: 'open', errno: 2 } }),
    )
  })
})
