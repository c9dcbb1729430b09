import { readSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { EventFd, UnixSocket, waitReadable } from '../../src/index.ts'
import { missing, titled } from '../support/system.ts'

describe.skipIf(missing !== '')(titled('EventFd'), () => {
  it('counts signals until they are taken, and never waits', () => {
    using event = EventFd.create()
    expect(event.take()).toBe(0)
    event.signal()
    event.signal()
    expect(event.take()).toBe(2)
    expect(event.take()).toBe(0)
  })

  it('can be waited for', () => {
    using event = EventFd.create()
    using other = EventFd.create()
    expect(waitReadable([event.fd, other.fd], 0)).toEqual([])
    other.signal()
    expect(waitReadable([event.fd, other.fd], 1000)).toEqual([other.fd])
  })

  it('works through a descriptor that another process sent, and owns it', () => {
    using event = EventFd.create()
    const [here, there] = UnixSocket.pair()
    here.send(Uint8Array.of(1), [event.fd])
    const [fd] = there.receive(1, 1000).fds
    const received = EventFd.from(fd)
    received.signal()
    expect(event.take()).toBe(1)
    received.close()
    received.close()
    expect(received.fd).toBe(-1)
    expect(() => readSync(fd, Buffer.alloc(8))).toThrow(/EBADF/)
    here.close()
    there.close()
  })

  it('is refused where the descriptor is none, and says so when it was closed', () => {
    const badDescriptor = expect.objectContaining({
      code: 'NODE_SYSCALL',
      details: expect.objectContaining({ errno: 9 }),
    })
    expect(() => EventFd.from(99_999)).toThrow(badDescriptor)
    const event = EventFd.create()
    event.close()
    expect(() => event.signal()).toThrow(badDescriptor)
    expect(() => event.take()).toThrow(badDescriptor)
  })
})

describe.skipIf(missing !== '')(titled('waitReadable'), () => {
  it('counts the end of a stream as readable', () => {
    const [here, there] = UnixSocket.pair()
    here.close()
    expect(waitReadable([there.fd], 1000)).toEqual([there.fd])
    there.close()
  })

  it('refuses what is no descriptor and no deadline', () => {
    expect(() => waitReadable([99_999], 0)).toThrow(expect.objectContaining({ code: 'NODE_SYSCALL' }))
    expect(() => waitReadable([-1], 0)).toThrow(expect.objectContaining({ code: 'NODE_CLOSED' }))
    for (const ms of [Number.NaN, -1, Number.POSITIVE_INFINITY]) {
      expect(() => waitReadable([0], ms)).toThrow(expect.objectContaining({ code: 'NODE_DEADLINE', details: { ms } }))
    }
  })
})
