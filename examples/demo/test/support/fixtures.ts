import { readFileSync } from 'node:fs'
import { expect } from 'vitest'
import { DemoInputError } from '../../src/errors.ts'
import {
  type CaptureHeader,
  type Chunks,
  type Frame,
  headerBytes,
  putFrame,
  RECORD_HEADER_BYTES,
  readFrames,
  readHeader,
} from '../../src/pcap.ts'

/** The bytes of a file in `fixtures/`. */
export function fixture(name: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array(readFileSync(new URL(`../../fixtures/${name}`, import.meta.url)))
}

/** The record of the DemoInputError that `run` must throw. */
export async function refusal(run: () => unknown): Promise<ReturnType<DemoInputError['toRecord']>> {
  try {
    await run()
  } catch (error) {
    if (error instanceof DemoInputError) return error.toRecord()
    throw error
  }
  return expect.unreachable('nothing was refused')
}

/** A whole pcap file, in memory. */
export interface WholeCapture {
  readonly header: CaptureHeader
  readonly frames: readonly Frame[]
}

/** Reads a pcap file that is given at once or in pieces. */
export async function readPcap(file: Uint8Array | Uint8Array[], name: string): Promise<WholeCapture> {
  const pieces = file instanceof Uint8Array ? [file] : file
  const frames: Frame[] = []
  for await (const some of readFrames(pieces satisfies Chunks, name)) frames.push(...some)
  return { header: readHeader(Buffer.concat(pieces), name), frames }
}

export function writePcap({ header, frames }: WholeCapture): Uint8Array<ArrayBuffer> {
  const records = frames.map((frame) => {
    const record = new Uint8Array(RECORD_HEADER_BYTES + frame.data.length)
    putFrame(header, frame, record, 0)
    return record
  })
  return new Uint8Array(Buffer.concat([headerBytes(header), ...records]))
}
