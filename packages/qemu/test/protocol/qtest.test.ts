import { describe, expect, it } from 'vitest'
import { LineStream } from '../../src/protocol/lines.ts'
import { Qtest } from '../../src/protocol/qtest.ts'
import { FakeServer } from '../support/fake-server.ts'

function qtestOf(answer: string | ((line: string) => string)): { server: FakeServer; qtest: Qtest } {
  const server = new FakeServer(typeof answer === 'string' ? () => answer : answer)
  return { server, qtest: new Qtest(new LineStream('qtest', server, 100)) }
}

describe('the qtest client', () => {
  it('makes one command of each access, in its width', () => {
    const { server, qtest } = qtestOf((line) => (/^(read|in)/.test(line) ? 'OK 0x00000000000000fe\n' : 'OK\n'))
    expect([qtest.read(16, 1), qtest.read(16, 2), qtest.read(2 ** 38, 4), qtest.in(0xcfc, 4)]).toEqual([
      254, 254, 254, 254,
    ])
    qtest.write(16, 1, 7)
    qtest.window(0x1000).write(8, 4, 0xffff_ffff)
    qtest.out(0xcf8, 4, 1)
    expect(server.received).toEqual([
      'readb 16',
      'readw 16',
      'readl 274877906944',
      'inl 3324',
      'writeb 16 7',
      'writel 4104 4294967295',
      'outl 3320 1',
    ])
  })

  it('passes over interrupts that come in between', () => {
    const { qtest } = qtestOf('IRQ raise 3\nIRQ lower 3\nOK 0x1\n')
    expect(qtest.read(0, 4)).toBe(1)
  })

  it('a refusal is an error of that command alone', () => {
    const { qtest } = qtestOf((line) => (line === 'nonsense' ? 'FAIL Unknown command\n' : 'OK 0x5\n'))
    expect(() => qtest.command('nonsense')).toThrow(
      expect.objectContaining({ code: 'QEMU_COMMAND', message: expect.stringContaining('FAIL Unknown command') }),
    )
    expect(qtest.read(0, 4)).toBe(5)
    expect(() => qtest.command('two\nlines')).toThrow(expect.objectContaining({ code: 'QEMU_OPTIONS' }))
  })

  it.each(['', 'OK\n', 'OK 17\n', 'OK 0x\n', 'OK 0x1 0x2\n', 'OK 0x11112222333344445\n', 'HELLO 0x1\n', '\u0000\n'])(
    'an answer that the protocol does not have ends the connection: %j',
    (answer) => {
      const { server, qtest } = qtestOf(answer)
      const lost = expect.objectContaining({ code: 'QEMU_LOST' })
      expect(() => qtest.read(0, 4)).toThrow(lost)
      server.say('OK 0x1\n')
      expect(() => qtest.read(0, 4)).toThrow(lost)
      expect(server.received).toEqual(['readl 0'])
    },
  )
})
