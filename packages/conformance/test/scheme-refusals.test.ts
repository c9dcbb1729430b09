import { DMA_CORRUPT, type DmaBackend, type DmaMappings, type DmaStatus } from '@guestdma/dma'
import { describe, expect, test } from 'vitest'
import { bouncingScheme, describeDmaScheme, ForwardingBackend, withBackend } from '../src/index.ts'
import { collect } from './support/collect.ts'
import { small } from './support/small.ts'

class RefusesOverlong extends ForwardingBackend {
  override unmap(m: DmaMappings, row: number, written: number): DmaStatus {
    if (written <= m.length[row]) return super.unmap(m, row, written)
    super.unmap(m, row, 0)
    return DMA_CORRUPT
  }
}

const refusing = withBackend(bouncingScheme(), (inner) => new RefusesOverlong(inner))
describeDmaScheme({ describe, test, expect }, refusing, { ...small, name: 'that refuses an overlong `written`' })

const METHODS = [
  'alloc',
  'free',
  'map',
  'unmap',
  'syncForDevice',
  'syncForCpu',
  'commitMaps',
  'commitUnmaps',
  'dispose',
] as const

describe('a backend that throws an error of its own fails tests, and the others are still judged', () => {
  for (const method of METHODS) {
    test(method, async () => {
      const throws = (): never => {
        throw new TypeError(`own error of ${method}`)
      }
      const scheme = withBackend(
        bouncingScheme(),
        (inner) => Object.assign(new ForwardingBackend(inner), { [method]: throws }) as DmaBackend,
      )
      const { ran, failed } = await collect((functions) => describeDmaScheme(functions, scheme, small))
      expect(failed.some(({ message }) => message.includes(`own error of ${method}`))).toBe(true)
      expect(failed.length).toBeLessThan(ran)
    })
  }

  test('create', async () => {
    const scheme = withBackend(bouncingScheme(), () => {
      throw new TypeError('own error of create')
    })
    const { failed } = await collect((functions) => describeDmaScheme(functions, scheme, small), /map and unmap/)
    expect(failed.length).toBeGreaterThan(0)
    expect(failed.every(({ message }) => message.endsWith('own error of create'))).toBe(true)
  })

  test('the function that makes the scheme', async () => {
    const make = (): never => {
      throw new TypeError('own error of the factory')
    }
    const { ran, failed } = await collect((functions) => describeDmaScheme(functions, make, small))
    expect(ran).toBeGreaterThan(50)
    expect(failed.length).toBe(ran)
    expect(failed.every(({ message }) => message.endsWith('own error of the factory'))).toBe(true)
  })
})
