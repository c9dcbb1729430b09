import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { LineStream } from '../../src/protocol/lines.ts'
import { FakeServer } from '../support/fake-server.ts'

const lost = (text: string): unknown =>
  expect.objectContaining({ code: 'QEMU_LOST', message: expect.stringContaining(text) })

describe('lines over a stream', () => {
  it('are the same however the stream cuts and joins them', () => {
    const line = fc.string({ unit: 'grapheme', maxLength: 60 }).map((text) => text.replaceAll(/[\r\n]/g, ''))
    fc.assert(
      fc.property(
        fc.array(line, { minLength: 1 }),
        fc.infiniteStream(fc.integer({ min: 1, max: 9 })),
        (lines, cuts) => {
          const server = new FakeServer(undefined, () => cuts.next().value as number)
          const stream = new LineStream('test', server, 100)
          server.say(lines.map((text) => `${text}\n`).join('')).end()
          expect(lines.map(() => stream.next())).toEqual(lines)
          expect(() => stream.next()).toThrow(lost('the connection was closed'))
        },
      ),
    )
  })

  it('may end as on other systems, and may be empty', () => {
    const stream = new LineStream('test', new FakeServer().say('a\r\n\nb\n'), 100)
    expect([stream.next(), stream.next(), stream.next()]).toEqual(['a', '', 'b'])
  })

  it('that have arrived are had without waiting', () => {
    const server = new FakeServer(undefined, () => 3)
    const stream = new LineStream('test', server.say('first\nsec'), 100)
    expect([stream.arrived(), stream.arrived()]).toEqual(['first', null])
    server.say('ond\n')
    expect([stream.arrived(), stream.arrived()]).toEqual(['second', null])
    server.end()
    expect(() => stream.arrived()).toThrow(lost('closed'))
  })

  it('a line that was cut off at the end of the stream is none', () => {
    const stream = new LineStream('test', new FakeServer().say('whole\nhal').end(), 100)
    expect(stream.next()).toBe('whole')
    expect(() => stream.next()).toThrow(lost('closed'))
  })

  it('without an end are refused', () => {
    const server = new FakeServer()
    for (let i = 0; i < 80; i++) server.say('x'.repeat(1 << 16))
    expect(() => new LineStream('test', server, 20_000).next()).toThrow(lost('a line of more than 4194304 characters'))
  })

  it('an answer is due at its deadline, whatever else arrives until then', () => {
    const server = new FakeServer(undefined, () => 7)
    const stream = new LineStream('test', server, 20)
    stream.send('question')
    const read = (): void => {
      for (;;) {
        server.say('IRQ raise 1\n')
        stream.next()
      }
    }
    expect(read).toThrow(lost('no answer within 20 ms'))
  })

  it('the first failure closes the stream, says what QEMU printed and stays', () => {
    const server = new FakeServer()
    const stream = new LineStream('test', server, 7, () => 'out of memory')
    let first: unknown
    try {
      stream.next()
    } catch (error) {
      first = error
    }
    expect(first).toEqual(lost('QEMU printed: out of memory'))
    expect(first).toMatchObject({ cause: { code: 'NODE_DEADLINE' } })
    expect(server.closed).toBe(true)
    server.say('late\n')
    for (const use of [() => stream.next(), () => stream.send('x'), () => stream.arrived()]) {
      expect(use).toThrow(first as Error)
    }
    expect(server.received).toEqual([])
  })
})
