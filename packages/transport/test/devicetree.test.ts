import { execFileSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { readDevicetree } from '@guestdma/transport'
import { describe, expect, it, test } from 'vitest'
import {
  ascii,
  assemble,
  BEGIN,
  COMPILED,
  codeOf,
  compiled,
  END,
  END_NODE,
  errorOf,
  FOLDER,
  flatten,
  NOP,
  PROP,
  padded,
} from './support/devicetree.ts'

const read = (blob: Uint8Array) => () => readDevicetree(blob)
const ROOT = padded('')

describe('devicetree/compiled sources', () => {
  const dtc = (...args: string[]): Buffer => execFileSync('dtc', args, { stdio: ['ignore', 'pipe', 'ignore'] })
  const hasDtc = (() => {
    try {
      return dtc('--version').length > 0
    } catch {
      return false
    }
  })()

  test.skipIf(!hasDtc).each(COMPILED)(
    '%s.dtb is what dtc makes of its source (skipped where there is no dtc)',
    (name) => {
      const source = fileURLToPath(new URL(`${name}.dts`, FOLDER))
      expect(new Uint8Array(dtc('-q', '-I', 'dts', '-O', 'dtb', source))).toEqual(compiled(name))
    },
  )

  it('names all of them', () => {
    const files = COMPILED.flatMap((name) => [`${name}.dtb`, `${name}.dts`])
    expect(readdirSync(FOLDER).sort()).toEqual(files.sort())
  })
})

describe('devicetree/tree', () => {
  const tree = readDevicetree(compiled('regions'))

  it('has nodes with names, paths, parents and children', () => {
    const bus = tree.node('/soc/bus@40000000')
    expect(bus?.name).toBe('bus@40000000')
    expect(bus?.path).toBe('/soc/bus@40000000')
    expect(bus?.parent).toBe(tree.node('/soc'))
    expect(bus?.children.map(({ path }) => path)).toEqual(['/soc/bus@40000000/virtio@40002000'])
    expect(tree.root.path).toBe('/')
    expect(tree.node('/')).toBe(tree.root)
    expect(tree.nodes[0]).toBe(tree.root)
    expect(tree.nodes).toHaveLength(14)
  })

  it('finds a node without its unit address where that is not ambiguous (§2.2.3)', () => {
    expect(tree.node('/soc/bus/virtio')?.name).toBe('virtio@40002000')
    expect(tree.node('/soc/virtio')).toBeUndefined()
    for (const path of ['', 'soc', '/soc/', '//', '/soc/none', '/soc/bus@4']) expect(tree.node(path)).toBeUndefined()
  })

  it('finds nodes by phandle and by compatible', () => {
    const low = tree.node('/reserved-memory/pool@90000000')
    expect(tree.byPhandle(low?.cell('phandle') ?? 0)).toBe(low)
    expect(tree.byPhandle(0)).toBeUndefined()
    expect(tree.compatibleWith('guestdma,slot').map(({ name }) => name)).toEqual(['virtio@40002000'])
  })

  it('reads cells, strings and lists of strings, and says where they are none (§2.2.4)', () => {
    const slot = tree.node('/soc/bus/virtio')
    expect(slot?.strings('compatible')).toEqual(['guestdma,slot', 'virtio,mmio'])
    expect(slot?.cells('reg')).toEqual([0x40002000, 0x1000])
    expect(slot?.cell('none')).toBeUndefined()
    expect(slot?.strings('none')).toBeUndefined()
    expect(tree.node('/soc/virtio@2000')?.string('status')).toBe('disabled')
    expect(tree.node('/soc')?.properties.get('dma-coherent')).toEqual(new Uint8Array(0))

    const odd = readDevicetree(flatten({ bytes: Uint8Array.of(0x41, 0x42, 7) })).root
    for (const reader of ['cells', 'cell', 'strings', 'string'] as const) {
      expect(errorOf(() => odd[reader]('bytes'))).toMatchObject({
        code: 'TRANSPORT_FDT_PROPERTY',
        details: { node: '/', property: 'bytes' },
      })
    }
    expect(codeOf(() => slot?.cell('reg'))).toBe('TRANSPORT_FDT_PROPERTY')
    expect(codeOf(() => slot?.string('compatible'))).toBe('TRANSPORT_FDT_PROPERTY')
  })

  it('tells which nodes are available (§2.3.4)', () => {
    const root = readDevicetree(
      flatten({
        a: {},
        b: { status: 'okay' },
        c: { status: 'ok' },
        d: { status: 'disabled' },
        e: { status: 'fail' },
        f: { status: 'okay, or is it' },
      }),
    ).root
    expect(root.children.map(({ available }) => available)).toEqual([true, true, true, false, false, false])
  })

  it('reads the memory reservation block (§5.3)', () => {
    expect(tree.memoryReservations).toEqual([
      { base: 0x80000000, length: 0x10000 },
      { base: 0x1f_0000_0000, length: 0x2000 },
    ])
  })

  it('shares no memory with the blob, wherever that lies in its buffer', () => {
    const blob = compiled('swiotlb-rfc')
    const odd = new Uint8Array(blob.length + 9).subarray(3)
    odd.set(blob)
    const copy = readDevicetree(odd)
    odd.fill(0xff)
    expect(copy.root.string('model')).toBe('guestdma,swiotlb-rfc')
  })
})

describe('devicetree/header (§5.2)', () => {
  const structure = [BEGIN, ROOT, END_NODE, END]
  const withHeader = (header: Record<number, number>) => codeOf(read(assemble({ structure, header })))

  it('reads what is proper', () => {
    expect(withHeader({})).toBe('no error')
    expect(withHeader({ 5: 18, 6: 17 })).toBe('no error')
  })

  it('reads version 16, whose header does not say how long the structure block is', () => {
    for (const name of COMPILED) {
      const blob = compiled(name)
      const fields = new DataView(blob.buffer)
      const paths = readDevicetree(blob).nodes.map(({ path }) => path)
      fields.setUint32(20, 16)
      fields.setUint32(36, 0xffff_ffff)
      expect(readDevicetree(blob).nodes.map(({ path }) => path)).toEqual(paths)
    }
  })

  it('refuses a version 16 blob whose structure does not end within the blob', () => {
    const open = assemble({ structure: [BEGIN, ROOT, END_NODE], header: { 5: 16, 9: 0 } })
    expect(codeOf(read(open))).toBe('TRANSPORT_FDT_TRUNCATED')
  })

  it.each([
    ['another magic', { 0: 0xedfe0dd0 }, 'TRANSPORT_FDT_MAGIC'],
    ['version 15', { 5: 15 }, 'TRANSPORT_FDT_VERSION'],
    ['a later version that version 17 cannot read', { 5: 19, 6: 18 }, 'TRANSPORT_FDT_VERSION'],
    ['a total size beyond the buffer', { 1: 0xffff_ffff }, 'TRANSPORT_FDT_TRUNCATED'],
    ['a total size within the header', { 1: 39 }, 'TRANSPORT_FDT_TRUNCATED'],
    ['a structure block beyond the blob', { 2: 0xffff_fffc }, 'TRANSPORT_FDT_OFFSET'],
    ['a structure block that ends beyond the blob', { 9: 0xffff_ffff }, 'TRANSPORT_FDT_OFFSET'],
    ['a structure block that is misaligned (§5.6)', { 2: 57, 9: 8 }, 'TRANSPORT_FDT_OFFSET'],
    ['a structure block within the header', { 2: 0 }, 'TRANSPORT_FDT_OFFSET'],
    ['a strings block beyond the blob', { 3: 0x8000_0000 }, 'TRANSPORT_FDT_OFFSET'],
    ['a strings block that ends beyond the blob', { 8: 1 }, 'TRANSPORT_FDT_OFFSET'],
    ['a reservation block that is misaligned (§5.6)', { 4: 44 }, 'TRANSPORT_FDT_OFFSET'],
    ['a reservation block beyond the blob', { 4: 0x1000 }, 'TRANSPORT_FDT_OFFSET'],
    ['a structure block of no bytes', { 9: 0 }, 'TRANSPORT_FDT_TRUNCATED'],
  ])('refuses %s', (_, header, code) => {
    expect(withHeader(header as Record<number, number>)).toBe(code)
  })

  it('refuses a reservation block that does not end', () => {
    expect(codeOf(read(assemble({ structure, reservations: [1, 0, 1, 0] })))).toBe('TRANSPORT_FDT_TRUNCATED')
  })

  it.each([
    ['at 2^53', [0x20_0000, 0, 0, 1], []],
    ['of 2^64 - 1 bytes', [0, 0x1000, 0xffff_ffff, 0xffff_ffff], [{ base: 0x1000, length: 2 ** 53 - 0x1000 }]],
    ['that ends beyond 2^53', [0x1f_ffff, 0xffff_ffff, 0, 2], [{ base: 2 ** 53 - 1, length: 1 }]],
  ])('takes of a reservation %s what lies below 2^53', (_, reservation, spans) => {
    const reservations = [...reservation, 0, 0x2000, 0, 0x10, 0, 0, 0, 0]
    const tree = readDevicetree(assemble({ structure, reservations }))
    expect(tree.memoryReservations).toEqual([...spans, { base: 0x2000, length: 0x10 }])
  })

  it('refuses every truncation of a proper blob, with the offset', () => {
    for (const name of COMPILED) {
      const blob = compiled(name)
      for (let length = 0; length < blob.length; length++) {
        const cut = blob.slice(0, length)
        const plain = errorOf(read(cut))
        expect(plain?.code).toBe('TRANSPORT_FDT_TRUNCATED')
        expect(plain?.details.offset).toBeTypeOf('number')
        if (length < 40) continue
        // The same with a total size that agrees.
        new DataView(cut.buffer).setUint32(4, length)
        expect(codeOf(read(cut))).toMatch(/^TRANSPORT_FDT_(TRUNCATED|OFFSET)$/)
      }
    }
  })
})

describe('devicetree/structure (§5.4)', () => {
  const strings = ascii('reg\0\0x y\0end')
  const withTokens = (...structure: (number | Uint8Array)[]) => codeOf(read(assemble({ structure, strings })))
  const inRoot = (...structure: (number | Uint8Array)[]) => withTokens(BEGIN, ROOT, ...structure, END_NODE, END)

  it('passes over NOP, and over what pads', () => {
    expect(withTokens(NOP, BEGIN, ROOT, NOP, PROP, 1, 0, ascii('abcd'), NOP, END_NODE, NOP, END)).toBe('no error')
  })

  it.each([
    ['an unknown token', [5], 'TRANSPORT_FDT_STRUCTURE'],
    ['END_NODE without BEGIN_NODE', [BEGIN, ROOT, END_NODE, END_NODE, END], 'TRANSPORT_FDT_STRUCTURE'],
    ['END within a node', [BEGIN, ROOT, END], 'TRANSPORT_FDT_STRUCTURE'],
    ['END without a root', [END], 'TRANSPORT_FDT_STRUCTURE'],
    ['two roots', [BEGIN, ROOT, END_NODE, BEGIN, ROOT, END_NODE, END], 'TRANSPORT_FDT_STRUCTURE'],
    ['tokens behind END', [BEGIN, ROOT, END_NODE, END, NOP], 'TRANSPORT_FDT_STRUCTURE'],
    ['a block without END', [BEGIN, ROOT, END_NODE], 'TRANSPORT_FDT_TRUNCATED'],
    ['a property outside of nodes', [PROP, 0, 0, BEGIN, ROOT, END_NODE, END], 'TRANSPORT_FDT_STRUCTURE'],
    ['a root with a name', [BEGIN, padded('root'), END_NODE, END], 'TRANSPORT_FDT_NAME'],
    ['a name without a NUL', [BEGIN, ascii('abcd')], 'TRANSPORT_FDT_TRUNCATED'],
  ])('refuses %s', (_, structure, code) => {
    expect(withTokens(...structure)).toBe(code)
  })

  it.each([
    ['a property behind a child', [BEGIN, padded('a'), END_NODE, PROP, 0, 0], 'TRANSPORT_FDT_STRUCTURE'],
    ['a property twice', [PROP, 0, 0, PROP, 0, 0], 'TRANSPORT_FDT_NAME'],
    ['a property of 2^32 - 1 bytes', [PROP, 0xffff_ffff, 0], 'TRANSPORT_FDT_TRUNCATED'],
    ['a property of 2^32 - 4 bytes', [PROP, 0xffff_fffc, 0], 'TRANSPORT_FDT_TRUNCATED'],
    ['a property that swallows the end', [PROP, 8, 0], 'TRANSPORT_FDT_TRUNCATED'],
    ['a name behind the strings', [PROP, 0, 12], 'TRANSPORT_FDT_TRUNCATED'],
    ['a name far behind the strings', [PROP, 0, 0xffff_ffff], 'TRANSPORT_FDT_TRUNCATED'],
    ['an unterminated name in the strings', [PROP, 0, 9], 'TRANSPORT_FDT_TRUNCATED'],
    ['an empty property name', [PROP, 0, 4], 'TRANSPORT_FDT_NAME'],
    ['a property name with a space', [PROP, 0, 5], 'TRANSPORT_FDT_NAME'],
    ['a child without a name', [BEGIN, ROOT, END_NODE], 'TRANSPORT_FDT_NAME'],
    ["a child's name with a slash", [BEGIN, padded('a/b'), END_NODE], 'TRANSPORT_FDT_NAME'],
    ["a child's name with another byte", [BEGIN, padded('a\x80'), END_NODE], 'TRANSPORT_FDT_NAME'],
    ["a child's name twice", [BEGIN, padded('a'), END_NODE, BEGIN, padded('a'), END_NODE], 'TRANSPORT_FDT_NAME'],
    ['a name of 256 bytes', [BEGIN, padded('a'.repeat(256)), END_NODE], 'TRANSPORT_FDT_NAME'],
    // What follows the NUL is a token again, and none that is known.
    ['a name with a NUL in it', [BEGIN, padded('abc\0abc'), END_NODE], 'TRANSPORT_FDT_STRUCTURE'],
  ])('refuses %s', (_, structure, code) => {
    expect(inRoot(...structure)).toBe(code)
  })

  it('takes names of 255 bytes and 64 nodes one inside the other, and no more', () => {
    expect(inRoot(BEGIN, padded('a'.repeat(255)), END_NODE)).toBe('no error')
    const nested = (depth: number) => {
      const begins = Array.from({ length: depth - 1 }, () => [BEGIN, padded('a')]).flat()
      const ends = new Array<number>(depth).fill(END_NODE)
      return codeOf(read(assemble({ structure: [BEGIN, ROOT, ...begins, ...ends, END] })))
    }
    expect(nested(64)).toBe('no error')
    expect(nested(65)).toBe('TRANSPORT_FDT_DEPTH')
    expect(nested(100_000)).toBe('TRANSPORT_FDT_DEPTH')
  })

  it('reads many nodes and many overlapping property names in linear time', () => {
    const count = 50_000
    const children = Array.from({ length: count }, (_, i) => [BEGIN, padded(`n@${i}`), PROP, 0, i, END_NODE]).flat()
    const overlapping = ascii(`${'a'.repeat(250)}\0`.repeat(count / 250))
    const structure = [BEGIN, ROOT, ...children, END_NODE, END]
    for (let i = 0; i < count; i++) if (overlapping[i] === 0) structure[2 + i * 6 + 4] = 0
    const tree = readDevicetree(assemble({ structure, strings: overlapping }))
    expect(tree.nodes).toHaveLength(count + 1)
    expect(tree.node('/n@49999')?.properties.size).toBe(1)
  })
})

describe('devicetree/phandles (§2.3.3)', () => {
  it.each([
    ['two nodes have the same', { a: { phandle: [1] }, b: { phandle: [1] } }],
    ['an old name and a new one have the same', { a: { phandle: [1] }, b: { 'linux,phandle': [1] } }],
    ['one is 0', { a: { phandle: [0] } }],
    ['one is unresolved', { a: { phandle: [0xffff_ffff] } }],
  ])('refuses a tree where %s', (_, source) => {
    expect(codeOf(read(flatten(source)))).toBe('TRANSPORT_FDT_PHANDLE')
  })

  it('refuses a phandle of two cells, and takes both names at once', () => {
    expect(codeOf(read(flatten({ a: { phandle: [1, 2] } })))).toBe('TRANSPORT_FDT_PROPERTY')
    const tree = readDevicetree(flatten({ a: { phandle: [7], 'linux,phandle': [7] } }))
    expect(tree.byPhandle(7)?.path).toBe('/a')
  })

  it('says which node and property name a phandle that no node has', () => {
    const tree = readDevicetree(flatten({ a: {} }))
    expect(errorOf(() => tree.referred(tree.root.children[0], 'iommus', 3))).toMatchObject({
      code: 'TRANSPORT_FDT_PHANDLE',
      details: { node: '/a', property: 'iommus', phandle: 3 },
    })
  })
})
