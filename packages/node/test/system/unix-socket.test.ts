import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { EventFd, UnixSocket } from '../../src/index.ts'
import { loadsSources, missing, titled } from '../support/system.ts'

let dir: string
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'guestdma-'))
})
afterAll(() => rmSync(dir, { recursive: true }))

const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString()
const index = fileURLToPath(new URL('../../src/index.ts', import.meta.url))

/** How many descriptors of this process are events. */
function openEvents(): number {
  const targets = readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`)
    } catch {
      return ''
    }
  })
  return targets.filter((target) => target.includes('eventfd')).length
}

/** What a program prints that has `UnixSocket` and the rest of this package; `limits` are commands for the shell. */
function program(source: string, limits = 'true'): string {
  const code = `import { EventFd, UnixSocket } from '${index}'\n${source}`
  const command = `${limits}; exec "$0" --input-type=module -e "$1"`
  const { stdout, stderr } = spawnSync('/bin/sh', ['-c', command, process.execPath, code], { encoding: 'utf8' })
  return stdout.trim() || stderr
}

describe.skipIf(missing !== '')(titled('UnixSocket'), () => {
  it('connects two processes by a path', () => {
    const path = join(dir, 'a.sock')
    using listener = UnixSocket.listen(path)
    using client = UnixSocket.connect(path, { deadlineMs: 1000 })
    using server = listener.accept(1000)
    expect(server.isReadable).toBe(false)
    client.send(Buffer.from('question'))
    expect(server.isReadable).toBe(true)
    expect(text(server.receive(100, 1000).bytes)).toBe('question')
    server.send(Buffer.from('answer'))
    expect(text(client.receive(3, 1000).bytes)).toBe('ans')
    expect(text(client.receive(100, 1000).bytes)).toBe('wer')
  })

  it('passes descriptors with the first byte, as new ones that no executed program inherits', () => {
    const [here, there] = UnixSocket.pair()
    using event = EventFd.create()
    here.send(Buffer.from('two'), [event.fd, event.fd])
    const { bytes, fds } = there.receive(100, 1000)
    expect(text(bytes)).toBe('two')
    expect(fds).toHaveLength(2)
    expect(new Set([event.fd, ...fds]).size).toBe(3)
    const listed = spawnSync('/bin/ls', ['-l', '/proc/self/fd'], { encoding: 'utf8' }).stdout
    expect(listed).not.toContain('eventfd')
    for (const fd of fds) EventFd.from(fd).close()
    here.close()
    there.close()
  })

  it('takes no more descriptors than were asked for, and closes all that came', () => {
    const [here, there] = UnixSocket.pair()
    using event = EventFd.create()
    const before = openEvents()
    here.send(Buffer.from('x'), [event.fd, event.fd, event.fd, event.fd])
    expect(() => there.receive(1, 1000, 3)).toThrow(
      expect.objectContaining({ code: 'NODE_DESCRIPTORS', details: { count: undefined, most: 3 } }),
    )
    here.send(Buffer.from('x'), [event.fd])
    expect(() => there.receive(1, 1000, 0)).toThrow(expect.objectContaining({ code: 'NODE_DESCRIPTORS' }))
    expect(openEvents()).toBe(before)
    here.send(Buffer.from('x'), [event.fd, event.fd, event.fd])
    const { fds } = there.receive(1, 1000, 3)
    expect(fds).toHaveLength(3)
    for (const fd of fds) EventFd.from(fd).close()
    expect(() => here.send(Buffer.from('x'), new Array(254).fill(event.fd))).toThrow(
      expect.objectContaining({ code: 'NODE_DESCRIPTORS', details: { count: 254, most: 253 } }),
    )
    here.close()
    there.close()
  })

  it.skipIf(!loadsSources)('says so where the process may open no more descriptors', () => {
    const source = `
      const [here, there] = UnixSocket.pair()
      const event = EventFd.create()
      here.send(Uint8Array.of(1), new Array(200).fill(event.fd))
      try { there.receive(1, 1000) } catch ({ code }) { console.log(code) }
      EventFd.create().close()`
    expect(program(source, 'ulimit -n 100')).toBe('NODE_DESCRIPTORS')
  })

  it.skipIf(!loadsSources)('sends all of what does not fit at once, descriptors once', () => {
    const path = join(dir, 'large.sock')
    using listener = UnixSocket.listen(path)
    const source = `
      const socket = UnixSocket.connect('${path}', { deadlineMs: 5000 })
      const event = EventFd.create()
      socket.send(new Uint8Array(3_000_000).map((_, i) => i), [event.fd])
      socket.close()`
    const command = `"$0" --input-type=module -e "$1" >/dev/null 2>&1 &`
    const code = `import { EventFd, UnixSocket } from '${index}'\n${source}`
    spawnSync('/bin/sh', ['-c', command, process.execPath, code])
    using socket = listener.accept(20_000)
    let count = 0
    let descriptors = 0
    for (;;) {
      const { bytes, fds } = socket.receive(1 << 16, 20_000)
      if (bytes.length === 0) break
      expect(bytes[0]).toBe(count & 0xff)
      count += bytes.length
      descriptors += fds.length
      for (const fd of fds) EventFd.from(fd).close()
    }
    expect([count, descriptors]).toEqual([3_000_000, 1])
  })

  it('gives no bytes when the other end closed, and refuses to send to it without a signal', () => {
    const [here, there] = UnixSocket.pair()
    there.close()
    there.close()
    expect(here.receive(10, 1000)).toEqual({ bytes: new Uint8Array(0), fds: [] })
    const closed = expect.objectContaining({ code: 'NODE_CLOSED' })
    expect(() => here.send(Buffer.from('x'))).toThrow(closed)
    expect(() => there.send(Buffer.from('x'))).toThrow(closed)
    expect(() => there.receive(1, 0)).toThrow(closed)
    expect(() => there.isReadable).toThrow(closed)
    here.close()
  })

  it('waits no longer than its deadline: to receive, to send, to accept and to connect', () => {
    const deadline = expect.objectContaining({ code: 'NODE_DEADLINE' })
    const [here, there] = UnixSocket.pair()
    expect(() => here.receive(1, 10)).toThrow(deadline)
    expect(() => here.send(new Uint8Array(10_000_000), [], 10)).toThrow(deadline)
    using listener = UnixSocket.listen(join(dir, 'lonely.sock'))
    expect(() => listener.accept(10)).toThrow(deadline)
    expect(() => UnixSocket.connect(join(dir, 'nobody.sock'), { deadlineMs: 10 })).toThrow(deadline)
    expect(() => UnixSocket.connect(join(dir, 'nobody.sock'), { deadlineMs: Number.NaN })).toThrow(deadline)
    here.close()
    there.close()
  })

  it('refuses a path that is too long, has a zero byte or is taken', () => {
    const refused = expect.objectContaining({ code: 'NODE_SOCKET_PATH' })
    for (const path of [`/tmp/${'x'.repeat(103)}`, '', '/tmp/a\0b']) {
      expect(() => UnixSocket.listen(path)).toThrow(refused)
      expect(() => UnixSocket.connect(path, { deadlineMs: 0 })).toThrow(refused)
    }
    const path = join(dir, 'taken')
    writeFileSync(path, 'a file')
    expect(() => UnixSocket.listen(path)).toThrow(refused)
  })

  it('refuses to receive no bytes, and to send descriptors without any', () => {
    const [here, there] = UnixSocket.pair()
    using event = EventFd.create()
    const refused = expect.objectContaining({ code: 'NODE_LENGTH' })
    for (const max of [0, -1, 0.5]) expect(() => here.receive(max, 0)).toThrow(refused)
    expect(() => here.send(new Uint8Array(0), [event.fd])).toThrow(refused)
    here.close()
    there.close()
  })
})
