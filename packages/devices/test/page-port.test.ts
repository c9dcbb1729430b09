import { GuestMemory } from '@guestdma/memory'
import { expect, test } from 'vitest'
import { PagePort } from '../src/index.ts'

test('PagePort tells the pages that are shared now, and no other', () => {
  const length = 1 << 20
  const memory = new GuestMemory([
    { base: 0x8000_0000, length, memory: new ArrayBuffer(length) },
    // In another chunk of the table.
    { base: 0x1_8000_0000, length, memory: new ArrayBuffer(length) },
  ])
  const port = new PagePort('pages', memory)
  const share = (page: number, bytes: number): void => {
    port.pages.set([page, bytes])
    port.share()
  }
  const shared = (): number[] => {
    const found: number[] = []
    port.forEach((page) => void found.push(page))
    return found
  }
  expect(shared()).toEqual([])
  share(0x8000_3000, 0x2000)
  share(0x1_8000_0000, 0x1000)
  expect(shared()).toEqual([0x8000_3000, 0x8000_4000, 0x1_8000_0000])
  port.pages.set([0x8000_3000, 0x1000])
  port.unshare()
  expect(shared()).toEqual([0x8000_4000, 0x1_8000_0000])
})
