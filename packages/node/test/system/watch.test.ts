import { spawnSync } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { EventFd, serveWatched, UnixSocket, type Watch, watchReadable } from '../../src/index.ts'
import { loadsSources, missing, titled } from '../support/system.ts'

describe.skipIf(missing !== '')(titled('watchReadable'), () => {
  it('calls back from the event loop whenever the descriptor can be read', async () => {
    using event = EventFd.create()
    let count = 0
    let told = (): void => {}
    using _watch = watchReadable(event.fd, () => {
      count += event.take()
      told()
    })
    for (const expected of [1, 2, 3]) {
      const next = new Promise<void>((resolve) => {
        told = resolve
      })
      event.signal()
      await next
      expect(count).toBe(expected)
    }
  })

  it.skipIf(!loadsSources)('what waits for a promise goes on, in a process in which nothing else happens', () => {
    const index = fileURLToPath(new URL('../../src/index.ts', import.meta.url))
    const code = `
      import { EventFd, watchReadable } from '${index}'
      const event = EventFd.create()
      let told = () => {}
      const watch = watchReadable(event.fd, () => { event.take(); told() })
      for (let i = 0; i < 100; i++) {
        const next = new Promise((resolve) => { told = resolve })
        event.signal()
        await next
      }
      watch.close()`
    const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', code], {
      timeout: 20_000,
      encoding: 'utf8',
    })
    expect([status, stderr]).toEqual([0, ''])
  })

  it('calls back no more once it is closed, also within the turn in which both were ready', () => {
    using first = EventFd.create()
    using second = EventFd.create()
    const called: string[] = []
    const watches: Watch[] = []
    for (const [name, event] of Object.entries({ first, second })) {
      const callback = (): void => {
        called.push(name)
        for (const watch of watches) watch.close()
      }
      watches.push(watchReadable(event.fd, callback))
    }
    first.signal()
    second.signal()
    expect(serveWatched(1000)).toBe(true)
    expect(serveWatched(0)).toBe(false)
    expect(called).toHaveLength(1)
  })

  it('is served by a wait within a callback', () => {
    using outer = EventFd.create()
    using inner = EventFd.create()
    const order: string[] = []
    using _inner = watchReadable(inner.fd, () => {
      inner.take()
      order.push('inner')
    })
    using _outer = watchReadable(outer.fd, () => {
      outer.take()
      inner.signal()
      while (!order.includes('inner') && serveWatched(1000));
      order.push('outer')
    })
    outer.signal()
    expect(serveWatched(1000)).toBe(true)
    expect(order).toEqual(['inner', 'outer'])
  })

  it('calls nobody back for what a wait within a callback has served', () => {
    using outer = EventFd.create()
    using inner = EventFd.create()
    const taken: number[] = []
    using _outer = watchReadable(outer.fd, () => {
      outer.take()
      if (taken.length === 0) serveWatched(1000)
    })
    using _inner = watchReadable(inner.fd, () => {
      taken.push(inner.take())
      serveWatched(0)
    })
    inner.signal()
    outer.signal()
    while (serveWatched(0));
    expect(taken).toEqual([1])
  })

  it('refuses what cannot be watched', () => {
    const file = openSync('/etc/hostname', 'r')
    expect(() => watchReadable(file, () => {})).toThrow('epoll_ctl failed: EPERM')
    closeSync(file)
    expect(() => watchReadable(file, () => {})).toThrow('epoll_ctl failed: EBADF')
  })
})

describe.skipIf(missing !== '')(titled('Descriptors of another process'), () => {
  it('an eventfd that is a pipe without its other end was never signalled', () => {
    const [here, there] = UnixSocket.pair()
    here.close()
    using event = EventFd.from(there.fd)
    expect(event.take()).toBe(0)
  })

  it('a socket that was sent is used as one', () => {
    const [here, there] = UnixSocket.pair()
    using adopted = UnixSocket.from(there.fd, 'theirs')
    here.send(Uint8Array.of(7))
    expect([...adopted.receive(8, 1000).bytes]).toEqual([7])
    here.close()
  })
})
