import { readFileSync } from 'node:fs'
import { TransportError } from '@guestdma/transport'

/** The compiled devicetrees beside this folder, each from the source of the same name. */
export const COMPILED = ['swiotlb-rfc', 'pci-iommu', 'regions'] as const
export const FOLDER: URL = new URL('../devicetree/', import.meta.url)

export function compiled(name: (typeof COMPILED)[number]): Uint8Array {
  return new Uint8Array(readFileSync(new URL(`${name}.dtb`, FOLDER)))
}

/** A value: u32 cells, strings or bytes. */
type Value = readonly number[] | readonly string[] | string | Uint8Array

/** A node: values, and nodes within. */
export interface Source {
  readonly [name: string]: Value | Source
}

export interface Blocks {
  /** Words, or bytes for what is no word. */
  readonly structure: readonly (number | Uint8Array)[]
  readonly strings?: Uint8Array
  /** Words. */
  readonly reservations?: readonly number[]
  /** Header fields, by index of their word, that are not to be as computed. */
  readonly header?: Readonly<Record<number, number>>
}

export const BEGIN = 1
export const END_NODE = 2
export const PROP = 3
export const NOP = 4
export const END = 9

/** Bytes of characters, one each. */
export function ascii(text: string): Uint8Array {
  return Uint8Array.from(text, (character) => character.charCodeAt(0))
}

/** A name as the structure block has it: with its NUL, and padded. */
export function padded(text: string): Uint8Array {
  const bytes = new Uint8Array(Math.ceil((text.length + 1) / 4) * 4)
  bytes.set(ascii(text))
  return bytes
}

/** A blob of blocks that need not make sense. */
export function assemble({ structure, strings = new Uint8Array(0), reservations = [0, 0, 0, 0], header }: Blocks) {
  const tokens = joined(structure.map((part) => (typeof part === 'number' ? words([part]) : part)))
  const reserved = words(reservations)
  const structureAt = 40 + reserved.length
  const stringsAt = structureAt + tokens.length
  const total = stringsAt + strings.length
  const fields = [0xd00dfeed, total, structureAt, stringsAt, 40, 17, 16, 0, strings.length, tokens.length]
  const head = words(fields.map((field, i) => header?.[i] ?? field))
  return joined([head, reserved, tokens, strings])
}

/** A proper blob. */
export function flatten(root: Source, reservations: readonly number[] = []): Uint8Array {
  const structure: (number | Uint8Array)[] = []
  const names = new Map<string, number>()
  let strings = ''
  const offsetOf = (name: string): number => {
    const known = names.get(name) ?? strings.length
    if (known === strings.length) strings += `${name}\0`
    names.set(name, known)
    return known
  }
  const visit = (name: string, source: Source): void => {
    structure.push(BEGIN, padded(name))
    const inner: [string, Source][] = []
    for (const [key, value] of Object.entries(source)) {
      if (isNode(value)) {
        inner.push([key, value])
        continue
      }
      const bytes = bytesOf(value)
      const room = new Uint8Array(Math.ceil(bytes.length / 4) * 4)
      room.set(bytes)
      structure.push(PROP, bytes.length, offsetOf(key), room)
    }
    for (const [key, value] of inner) visit(key, value)
    structure.push(END_NODE)
  }
  visit('', root)
  structure.push(END)
  return assemble({ structure, strings: ascii(strings), reservations: [...reservations, 0, 0, 0, 0] })
}

/** The code of the TransportError that `action` throws. Anything else that it throws goes on. */
export function codeOf(action: () => unknown): string {
  return errorOf(action)?.code ?? 'no error'
}

/** The TransportError that `action` throws. Anything else that it throws goes on. */
export function errorOf(action: () => unknown): TransportError | undefined {
  try {
    action()
  } catch (error) {
    if (error instanceof TransportError) return error
    throw error
  }
  return undefined
}

function isNode(value: Value | Source): value is Source {
  return typeof value === 'object' && !Array.isArray(value) && !(value instanceof Uint8Array)
}

function bytesOf(value: Value): Uint8Array {
  if (value instanceof Uint8Array) return value
  if (typeof value === 'string') return ascii(`${value}\0`)
  return joined(value.map((item) => (typeof item === 'number' ? words([item]) : ascii(`${item}\0`))))
}

function words(values: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(values.length * 4)
  const view = new DataView(bytes.buffer)
  values.forEach((value, i) => {
    view.setUint32(i * 4, value)
  })
  return bytes
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}
