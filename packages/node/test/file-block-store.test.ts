import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { BlockRequest, BlockStatus } from '@guestdma/devices'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { FileBlockStore } from '../src/index.ts'

let directory: string
let path: string

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'guestdma-'))
  path = join(directory, 'disk.img')
  await writeFile(
    path,
    Uint8Array.from({ length: 8 * 512 }, (_, i) => i >>> 9),
  )
})

afterEach(() => rm(directory, { recursive: true }))

function ask(
  store: FileBlockStore,
  kind: 'read' | 'write' | 'flush',
  sector = 0,
  data = new Uint8Array(0),
): Promise<BlockStatus> {
  return new Promise((resolve) => {
    const request: BlockRequest = { sector, data, done: resolve }
    store[kind](request)
  })
}

describe('FileBlockStore', () => {
  test('reads, writes and flushes sectors', async () => {
    await using store = await FileBlockStore.open(path)
    expect(store.capacity).toBe(8 * 512)
    const data = new Uint8Array(1024)
    expect(await ask(store, 'read', 3, data)).toBe(0)
    expect([data[0], data[511], data[512], data[1023]]).toEqual([3, 3, 4, 4])
    expect(await ask(store, 'write', 6, new Uint8Array(512).fill(0xaa))).toBe(0)
    expect(await ask(store, 'flush')).toBe(0)
    expect((await readFile(path)).subarray(6 * 512, 7 * 512).every((byte) => byte === 0xaa)).toBe(true)
  })

  test('a read-only file ends writes with IOERR', async () => {
    await using store = await FileBlockStore.open(path, { readOnly: true })
    expect(await ask(store, 'write', 0, new Uint8Array(512))).toBe(1)
    expect(await ask(store, 'read', 0, new Uint8Array(512))).toBe(0)
  })

  test('refuses a length that is no multiple of 512', async () => {
    await writeFile(path, new Uint8Array(700))
    await expect(FileBlockStore.open(path)).rejects.toMatchObject({ code: 'STORE_CAPACITY', details: { length: 700 } })
    await writeFile(path, '')
    await expect(FileBlockStore.open(path)).rejects.toMatchObject({ code: 'STORE_CAPACITY' })
  })

  test('close waits for what is running and ends later requests', async () => {
    const store = await FileBlockStore.open(path)
    const running = ask(store, 'read', 0, new Uint8Array(512))
    await store.close()
    expect(await running).toBe(0)
    expect(await ask(store, 'read', 0, new Uint8Array(512))).toBe(1)
    await store.close()
  })

  test('a file that became shorter ends a read with IOERR', async () => {
    await using store = await FileBlockStore.open(path)
    await writeFile(path, new Uint8Array(512))
    expect(await ask(store, 'read', 4, new Uint8Array(512))).toBe(1)
  })
})
