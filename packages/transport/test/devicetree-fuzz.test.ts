import {
  type Devicetree,
  iommuEndpoints,
  iommuForRequester,
  readDevicetree,
  restrictedDmaPool,
  spansOf,
  TransportError,
  virtioMmioNodes,
} from '@guestdma/transport'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { assemble, BEGIN, COMPILED, compiled, END, END_NODE, NOP, PROP } from './support/devicetree.ts'

/** `undefined` for a TransportError; another error goes on and fails the property. */
function attempt<T>(action: () => T): T | undefined {
  try {
    return action()
  } catch (error) {
    if (error instanceof TransportError && /^TRANSPORT_FDT_[A-Z_]+$/.test(error.code)) return undefined
    throw error
  }
}

/** Asks everything of a blob, and checks what was answered. */
function exercise(blob: Uint8Array): Devicetree | undefined {
  const tree = attempt(() => readDevicetree(blob))
  if (tree === undefined) return undefined
  for (const node of tree.nodes) {
    for (const property of node.properties.keys()) attempt(() => [node.cells(property), node.strings(property)])
    attempt(() => spansOf(node))
    attempt(() => iommuEndpoints(tree, node))
    attempt(() => iommuForRequester(tree, node, 0x10))
    const pool = attempt(() => restrictedDmaPool(tree, node))
    if (!pool) continue
    expect(pool.length).toBeGreaterThan(0)
    expect([pool.base % 4096, pool.length % 4096]).toEqual([0, 0])
    expect(pool.base + pool.length).toBeLessThanOrEqual(2 ** 53)
  }
  attempt(() => virtioMmioNodes(tree))
  return tree
}

const blobs = COMPILED.map(compiled)
const blob = fc.constantFrom(...blobs)
const word = fc.oneof(
  fc.constantFrom(0, 1, 2, 3, 4, 9, 0x7fff_ffff, 0x8000_0000, 0xffff_fffc, 0xffff_ffff),
  fc.nat(2000),
  fc.integer({ min: 0, max: 0xffff_ffff }),
)

type Change = (bytes: Uint8Array) => Uint8Array
const change: fc.Arbitrary<Change> = fc.oneof(
  fc.tuple(fc.nat(), fc.nat(7)).map(([at, bit]): Change => {
    return (bytes) => {
      if (bytes.length > 0) bytes[at % bytes.length] ^= 1 << bit
      return bytes
    }
  }),
  fc.tuple(fc.nat(), word).map(([at, value]): Change => {
    return (bytes) => {
      const words = Math.floor(bytes.length / 4)
      if (words > 0) new DataView(bytes.buffer, bytes.byteOffset).setUint32((at % words) * 4, value)
      return bytes
    }
  }),
  fc.tuple(fc.nat(9), word).map(([field, value]): Change => {
    return (bytes) => {
      if (bytes.length >= 40) new DataView(bytes.buffer, bytes.byteOffset).setUint32(field * 4, value)
      return bytes
    }
  }),
  fc.tuple(fc.nat(), fc.boolean()).map(([at, agree]): Change => {
    return (bytes) => {
      const cut = bytes.slice(0, at % (bytes.length + 1))
      if (agree && cut.length >= 40) new DataView(cut.buffer).setUint32(4, cut.length)
      return cut
    }
  }),
)

describe('devicetree/hostile blobs end in a tree or a TransportError', () => {
  it('random bytes, with and without the magic', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), fc.boolean(), (bytes, magic) => {
        if (magic) bytes.set([0xd0, 0x0d, 0xfe, 0xed].slice(0, bytes.length))
        exercise(bytes)
      }),
      { numRuns: 500 },
    )
  })

  it('random tokens', () => {
    const token = fc.constantFrom(BEGIN, END_NODE, PROP, NOP, END)
    const part = fc.oneof({ weight: 3, arbitrary: token }, { weight: 1, arbitrary: word })
    fc.assert(
      fc.property(fc.array(part, { maxLength: 60 }), fc.uint8Array({ maxLength: 40 }), (structure, strings) => {
        exercise(assemble({ structure: [BEGIN, 0, ...structure, END_NODE, END], strings }))
      }),
      { numRuns: 1000 },
    )
  })

  it('changes of proper blobs', () => {
    let read = 0
    fc.assert(
      fc.property(blob, fc.array(change, { minLength: 1, maxLength: 6 }), (original, changes) => {
        const bytes = changes.reduce<Uint8Array>((current, apply) => apply(current), original.slice())
        if (exercise(bytes) !== undefined) read++
      }),
      { numRuns: 2000 },
    )
    // Some have to get past the reader, or the questions above are never asked.
    expect(read).toBeGreaterThan(100)
  })

  it('every single word of proper blobs, overwritten', () => {
    for (const original of blobs) {
      for (let at = 0; at + 4 <= original.length; at += 4) {
        for (const value of [0, 1, 9, 0x7fff_ffff, 0xffff_fffd, 0xffff_ffff]) {
          const bytes = original.slice()
          new DataView(bytes.buffer).setUint32(at, value)
          exercise(bytes)
        }
      }
    }
  })
})
