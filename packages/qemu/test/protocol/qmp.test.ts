import { describe, expect, it } from 'vitest'
import { LineStream } from '../../src/protocol/lines.ts'
import { Qmp } from '../../src/protocol/qmp.ts'
import { FakeServer } from '../support/fake-server.ts'

const GREETING = '{"QMP":{"version":{"qemu":{"micro":22,"minor":2,"major":7},"package":"Debian"},"capabilities":[]}}\n'
const lost = expect.objectContaining({ code: 'QEMU_LOST' })

function connect(
  answers: Readonly<Record<string, (id: number) => string>> = {},
  greeting = GREETING,
): { server: FakeServer; qmp: () => Qmp } {
  const server = new FakeServer(
    (line) => {
      const { execute, id } = JSON.parse(line) as { execute: string; id: number }
      return answers[execute]?.(id) ?? `{"return":{},"id":${id}}\n`
    },
    () => 5,
  )
  server.say(greeting)
  return { server, qmp: () => new Qmp(new LineStream('qmp', server, 100)) }
}

describe('the QMP client', () => {
  it('takes the greeting, opens the session and passes commands on', () => {
    const { server, qmp } = connect({ 'query-status': (id) => `{"return":{"status":"running"},"id":${id}}\n` })
    const session = qmp()
    expect(session.version).toBe('7.2.22')
    expect(session.execute('query-status', { a: 1 })).toEqual({ status: 'running' })
    expect(server.received.map((line) => JSON.parse(line))).toEqual([
      { execute: 'qmp_capabilities', arguments: {}, id: 1 },
      { execute: 'query-status', arguments: { a: 1 }, id: 2 },
    ])
  })

  it('keeps events that come before, between and after answers', () => {
    const event = (name: string): string => `{"event":"${name}","data":{"n":1},"timestamp":{}}\n`
    const { server, qmp } = connect({ stop: (id) => `${event('A')}{"return":{},"id":${id}}\n${event('B')}` })
    const session = qmp()
    session.execute('stop')
    server.say('{"event":"C"}\n')
    expect(session.takeEvents()).toEqual([
      { event: 'A', data: { n: 1 } },
      { event: 'B', data: { n: 1 } },
      { event: 'C', data: {} },
    ])
    expect(session.takeEvents()).toEqual([])
  })

  it('keeps only the latest events that nobody takes, and takes no more at once', () => {
    const events = Array.from({ length: 1010 }, (_, i) => `{"event":"E${i}"}\n`).join('')
    const { server, qmp } = connect({ stop: (id) => `${events}{"return":{},"id":${id}}\n` })
    const session = qmp()
    session.execute('stop')
    const kept = session.takeEvents()
    expect([kept.length, kept[0].event]).toEqual([1000, 'E10'])
    server.say(events)
    expect([session.takeEvents().length, session.takeEvents().length]).toEqual([1000, 10])
  })

  it("a refusal carries QEMU's words, and the session goes on", () => {
    const { qmp } = connect({
      nonsense: (id) => `{"error":{"class":"CommandNotFound","desc":"no such command"},"id":${id}}\n`,
    })
    const session = qmp()
    expect(() => session.execute('nonsense')).toThrow(
      expect.objectContaining({
        code: 'QEMU_COMMAND',
        message: expect.stringContaining('nonsense: no such command'),
        details: { command: 'nonsense', class: 'CommandNotFound' },
      }),
    )
    expect(session.execute('stop')).toEqual({})
  })

  it.each([
    'what\n',
    '[]\n',
    'null\n',
    '{"return":{},"id":77}\n',
    '{"return":{}}\n',
    '{"error":{},"id":2}\n',
    '{"id":2}\n',
  ])('an answer that the protocol does not have ends the connection: %j', (answer) => {
    const { server, qmp } = connect({ stop: () => answer })
    const session = qmp()
    expect(() => session.execute('stop')).toThrow(lost)
    expect(() => session.execute('stop')).toThrow(lost)
    expect(server.received).toHaveLength(2)
  })

  it.each(['{}\n', '{"QMP":{}}\n', '{"QMP":{"version":{"qemu":{"major":"7"}}}}\n', 'SSH-2.0\n'])(
    'a greeting of something else is refused: %j',
    (greeting) => {
      expect(connect({}, greeting).qmp).toThrow(lost)
    },
  )

  it('an answer that nobody asked for ends the connection', () => {
    const { server, qmp } = connect()
    const session = qmp()
    server.say('{"return":{},"id":9}\n')
    expect(() => session.takeEvents()).toThrow(lost)
  })
})
