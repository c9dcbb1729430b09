import { Region } from '@guestdma/memory'
import {
  INTERRUPT_CONFIGURATION,
  NET_HEADER_SIZE,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_NET_F_MTU,
  VIRTIO_NET_F_STATUS,
} from '@guestdma/spec'
import fc from 'fast-check'
import { beforeEach, describe, expect, test } from 'vitest'
import { type BusWindows, eachFrame, Frames, type NetDeviceOptions } from '../src/index.ts'
import {
  type AnyNetMachine,
  netMachineOver,
  nextUncaught,
  packet,
  RecordingLink,
  TRANSPORTS,
  type TransportName,
} from './support/devices.ts'
import { BASE, pattern } from './support/guest.ts'

let m: AnyNetMachine
let transport: TransportName
let link: RecordingLink

function boot(options: Partial<NetDeviceOptions> = {}, ...features: number[]): void {
  link = new RecordingLink()
  m = netMachineOver(transport, { link, ...options })
  m.driver.start([m.rx, m.tx], ...features)
}

function transmit(frame: ArrayLike<number>, change: (header: number) => void = () => {}): void {
  const element = packet(m.ram, frame)
  change(element.address)
  m.tx.offer(m.tx.chain(element))
  m.driver.kick(1)
  m.device.poll(64)
}

/** Posts receive buffers of these lengths; returns their addresses. */
function post(...lengths: number[]): number[] {
  return lengths.map((length) => {
    const address = m.ram.put(new Uint8Array(length).fill(0x55))
    m.rx.offer(m.rx.chain({ address, length, w: true }))
    return address
  })
}

// By framing: how many descriptors a chain has.
const DESCRIPTORS = [1, 1, 1, 2, 2, 3]

// Those of a random list whose chains fit into a ring of eight.
function fitting<T extends { framing: number }>(all: readonly T[]): T[] {
  let left = 8
  const fits = all.findIndex(({ framing }) => {
    left -= DESCRIPTORS[framing]
    return left < 0
  })
  return all.slice(0, fits < 0 ? all.length : fits)
}

describe.each(TRANSPORTS)('over %s', (name) => {
  beforeEach(() => {
    transport = name
    boot()
  })

  describe('transmit (virtio 1.4 §5.1.9.2)', () => {
    test('frames of 1 to 1514 bytes, without their header', () => {
      for (const length of [1, 13, 14, 60, 64, 255, 256, 257, 1500, 1514]) {
        transmit(pattern(length, length))
        expect(link.frames.pop()).toEqual(pattern(length, length))
      }
      expect(m.tx.reap().every(({ length }) => length === 0)).toBe(true)
      expect(m.device.counters).toMatchObject({
        transmitted: 10,
        transmittedBytes: 1 + 13 + 14 + 60 + 64 + 255 + 256 + 257 + 1500 + 1514,
      })
    })

    test('frames of one batch, in whatever way each is framed (§2.7.4)', () => {
      const property = fc.property(
        fc.array(
          fc.record({
            length: fc.constantFrom(1, 60, 64, 300, 1514),
            framing: fc.nat({ max: 5 }),
            at: fc.nat({ max: 7 }),
          }),
          {
            minLength: 1,
            maxLength: 8,
          },
        ),
        (all) => {
          const frames = fitting(all)
          boot()
          const sent = frames.map(({ length }, i) => pattern(length, i))
          frames.forEach(({ framing, at }, i) => {
            const bytes = [...new Uint8Array(at), ...new Uint8Array(NET_HEADER_SIZE), ...sent[i]]
            const address = m.ram.put(Uint8Array.from(bytes)) + at
            const behind = address + NET_HEADER_SIZE
            const all = { address, length: NET_HEADER_SIZE + sent[i].length }
            const rest = { address: behind, length: sent[i].length }
            const pieces = [
              [all],
              [all],
              [all],
              [{ address, length: NET_HEADER_SIZE }, rest],
              [
                { address, length: 5 },
                { address: address + 5, length: all.length - 5 },
              ],
              [
                { address, length: NET_HEADER_SIZE },
                { address: behind, length: 1 },
                { address: behind + 1, length: rest.length - 1 },
              ],
            ][framing]
            m.tx.offer(m.tx.chain(...pieces.filter(({ length }) => length > 0)))
          })
          m.driver.kick(1)
          m.device.poll(64)
          expect(link.frames).toEqual(sent)
          expect(m.tx.reap()).toHaveLength(sent.length)
        },
      )
      fc.assert(property, { numRuns: 60 })
    })

    test('empty and over-long frames are dropped, counted and used', () => {
      transmit([])
      transmit(pattern(1515))
      transmit(pattern(60_000))
      m.tx.offer(m.tx.chain({ address: m.ram.alloc(11), length: 11 }))
      m.driver.kick(1)
      m.device.poll(64)
      expect(link.frames).toEqual([])
      expect(m.tx.reap()).toHaveLength(4)
      expect(m.device.counters).toMatchObject({ transmitted: 0, transmitOversize: 3, transmitMalformed: 1 })
      expect(m.device.faults.last().map((fault) => 'reason' in fault && fault.reason)).toEqual([
        'frame-size',
        'frame-size',
        'frame-size',
        'short-header',
      ])
      expect(m.device.live).toBe(true)
    })

    test('a VLAN tag is not part of the MTU, nor are two (802.1Q, 802.1ad)', { tags: ['5.1.9.5.3.1/all-tags'] }, () => {
      const tagged = (length: number, ...types: number[]): Uint8Array<ArrayBuffer> => {
        const frame = pattern(length)
        types.forEach((type, i) => {
          frame.set([type >> 8, type & 255], 12 + 4 * i)
        })
        return frame
      }
      const good = [
        tagged(1518, 0x8100),
        tagged(1518, 0x88a8),
        tagged(1522, 0x88a8, 0x8100),
        tagged(1522, 0x8100, 0x8100),
      ]
      const bad = [tagged(1518, 0x0800), tagged(1519, 0x8100), tagged(1522, 0x8100), tagged(1523, 0x88a8, 0x8100)]
      for (const frame of [...good, ...bad]) transmit(frame)
      expect(link.frames).toEqual(good)
      expect(m.device.counters).toMatchObject({ transmitted: 4, transmitOversize: 4 })
      for (const frame of good) {
        m.rx.offer(m.rx.chain({ address: m.ram.alloc(1534), length: 1534, w: true }))
        expect(m.device.receive(frame)).toBe(true)
      }
      for (const frame of bad) expect(m.device.receive(frame)).toBe(true)
      expect(m.device.counters).toMatchObject({ received: 4, receiveOversize: 4 })
    })

    test('offloads that were not negotiated: dropped and counted; flags it does not know are ignored', {
      tags: ['5.1.9.2.2/unknown-flags', '5.1.9.2.2/both-tunnels', '5.1.9.2.2/tunnel-flags'],
    }, () => {
      const set = (at: number, value: number) => (header: number) => {
        m.ram.bytes[m.ram.at(header) + at] = value
      }
      transmit(pattern(64), set(0, 1))
      transmit(pattern(64), set(0, 8))
      transmit(pattern(64), set(1, 1))
      transmit(pattern(64), set(1, 0x80))
      expect(link.frames).toEqual([])
      expect(m.device.counters.transmitMalformed).toBe(4)
      transmit(pattern(64), set(0, 2 | 4 | 16))
      transmit(pattern(64), set(4, 0xff))
      expect(link.frames).toHaveLength(2)
    })

    test('fields of offloads that were not negotiated are not used, and the checksum is not looked at (§5.1.9.2.2)', {
      tags: [
        '5.1.9.2.2/csum-fields',
        '5.1.9.2.2/outer-offset',
        '5.1.9.2.2/hdr-len',
        '5.1.9.2.2/tunnel-offsets',
        '5.1.9.2.2/checksum',
      ],
    }, () => {
      // UDP over IPv4 with wrong checksums of both.
      const frame = pattern(64)
      frame.set([8, 0, 0x45, 0, 0, 50, 0, 0, 0, 0, 64, 17, 0xba, 0xd0], 12)
      transmit(frame, (header) => m.ram.bytes.fill(0xff, m.ram.at(header) + 2, m.ram.at(header) + 12))
      transmit(frame)
      expect(link.frames).toEqual([frame, frame])
      expect(m.device.counters.transmitMalformed).toBe(0)
    })

    test.each([
      ['both tunnel bits', 0, 0x60 | 1],
      ['a tunnel bit and no checksum', 0, 0x20 | 1],
      ['a tunnel bit with DATA_VALID', 1 | 2, 0x40 | 4],
    ])(
      'a packet with %s is not accepted (§5.1.9.2.2)',
      { tags: ['5.1.9.2.2/both-tunnels', '5.1.9.2.2/tunnel-flags'] },
      (_, flags, gsoType) => {
        transmit(pattern(64), (header) => m.ram.bytes.set([flags, gsoType], m.ram.at(header)))
        expect(link.frames).toEqual([])
        expect(m.device.counters.transmitMalformed).toBe(1)
      },
    )

    test('a header that is cut in pieces is looked at all the same', () => {
      const { address } = packet(m.ram, pattern(64))
      m.ram.bytes[m.ram.at(address) + 1] = 1
      m.tx.offer(m.tx.chain({ address, length: 1 }, { address: address + 1, length: 75 }))
      m.driver.kick(1)
      m.device.poll(64)
      expect(m.device.counters.transmitMalformed).toBe(1)
    })

    test('the view is reused: a frame is valid until return', () => {
      const seen: Uint8Array[] = []
      boot({ link: { transmit: eachFrame((frame) => seen.push(frame)) } })
      transmit(pattern(64))
      transmit(pattern(64, 2))
      expect(seen[0]).toBe(seen[1])
    })

    test('a full link holds frames back, and nothing is lost', () => {
      const full = packet(m.ram, pattern(64))
      m.tx.offer(...Array.from({ length: 6 }, () => m.tx.chain(full)))
      m.driver.kick(1)
      link.full = true
      expect(m.device.poll(64)).toBe(0)
      let room = 3
      boot({
        link: {
          transmit: ({ count }) => {
            const taken = Math.min(room, count)
            room -= taken
            return taken
          },
        },
      })
      m.tx.offer(...Array.from({ length: 6 }, () => m.tx.chain(full)))
      m.driver.kick(1)
      expect([m.device.poll(64), m.tx.usedIndex, m.device.poll(64)]).toEqual([3, 3, 0])
      room = 9
      expect([m.device.poll(64), m.tx.usedIndex]).toEqual([3, 6])
      expect(m.device.counters.transmitted).toBe(6)
    })

    test('a link that throws loses its frames, and that is counted', async () => {
      const uncaught = nextUncaught()
      boot({
        link: {
          transmit: () => {
            throw new Error('link')
          },
        },
      })
      transmit(pattern(64))
      expect(m.device.counters).toMatchObject({ transmitted: 0, transmittedBytes: 0, transmitFailed: 1 })
      expect(m.tx.reap()).toHaveLength(1)
      expect(await uncaught).toBe('link')
    })

    test('a reset from within transmit: nothing is written to the old ring', () => {
      boot({
        link: {
          transmit: ({ count }) => {
            m.driver.status = 0
            return count
          },
        },
      })
      const element = packet(m.ram, pattern(64))
      m.tx.offer(m.tx.chain(element), m.tx.chain(element))
      m.driver.kick(1)
      m.ram.writes.length = 0
      m.device.poll(64)
      expect(m.ram.writes).toEqual([])
      expect(m.tx.usedIndex).toBe(0)
    })

    test('memory that moves from within transmit: the batch is taken anew, nothing is sent twice', () => {
      let shift = 0
      boot({
        link: {
          transmit: eachFrame((frame) => {
            link.frames.push(frame.slice())
            if (shift++ > 1) return
            // The platform moves guest memory by 32 KiB, and what was there is gone.
            const port = m.device.port as BusWindows
            const [window] = port.windows
            const from = window.offset + (window.base - BASE)
            m.ram.bytes.copyWithin(from + 0x8000, from, from + 0x8000)
            m.ram.bytes.fill(0xff, from, from + 0x8000)
            port.setWindows([{ ...window, length: 0x8000, offset: from + 0x8000 }])
          }),
        },
      })
      m.tx.offer(...[1, 2, 3, 4, 5].map((seed) => m.tx.chain(packet(m.ram, pattern(64, seed)))))
      m.driver.kick(1)
      expect(m.device.poll(64)).toBe(5)
      expect(link.frames).toEqual([1, 2, 3, 4, 5].map((seed) => pattern(64, seed)))
      expect(m.ram.u16(m.tx.used + 2 * 0x8000 + 2)).toBe(5)
      expect(m.ram.u16(m.tx.used + 2)).toBe(0xffff)
      expect(m.device.faults.count).toBe(0)
    })

    test('without a link frames are dropped and counted', () => {
      m = netMachineOver(transport)
      m.driver.start([m.rx, m.tx])
      transmit(pattern(64))
      expect(m.device.counters.transmitUnlinked).toBe(1)
      expect(m.tx.reap()).toHaveLength(1)
    })
  })

  describe('receive (§5.1.9.3, §5.1.9.4)', () => {
    test.each([[], [VIRTIO_NET_F_MRG_RXBUF]])(
      'frames of one batch, whatever buffers there are for each (features %j)',
      (...features) => {
        const buffer = fc.record({ framing: fc.nat({ max: 5 }), at: fc.nat({ max: 7 }) })
        const frameLengths = fc.array(fc.constantFrom(1, 60, 64, 300, 1514), { minLength: 1, maxLength: 8 })
        const property = fc.property(fc.array(buffer, { minLength: 8, maxLength: 8 }), frameLengths, (any, lengths) => {
          boot({}, ...features)
          const buffers = fitting(any)
          const all = lengths.slice(0, buffers.length)
          const places = buffers.map(({ framing, at }) => {
            const address = m.ram.put(new Uint8Array(1540).fill(0x55)) + at
            const cuts = [[], [], [], [12], [5], [12, 13]][framing]
            const ends = [...cuts, 1526]
            const pieces = ends.map((end, i) => {
              const begin = i === 0 ? 0 : ends[i - 1]
              return { address: address + begin, length: end - begin, w: true }
            })
            m.rx.offer(m.rx.chain(...pieces))
            return address
          })
          m.driver.kick(0)
          m.device.poll(64)
          const frames = all.map((length, i) => pattern(length, i))
          expect(m.device.receiveEach(Frames.of(...frames), 0, frames.length)).toBe(frames.length)
          m.device.poll(64)
          expect(m.rx.reap().map(({ length }) => length)).toEqual(all.map((length) => NET_HEADER_SIZE + length))
          frames.forEach((frame, i) => {
            expect(m.ram.get(places[i], NET_HEADER_SIZE)).toEqual(Uint8Array.from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]))
            expect(m.ram.get(places[i] + NET_HEADER_SIZE, frame.length)).toEqual(frame)
            // Nothing is written behind it.
            expect(m.ram.get(places[i] + NET_HEADER_SIZE + frame.length, 1)).toEqual(Uint8Array.of(0x55))
          })
          expect(m.device.counters).toMatchObject({
            received: all.length,
            receivedBytes: all.reduce((sum, n) => sum + n, 0),
          })
        })
        fc.assert(property, { numRuns: 60 })
      },
    )

    test.each([[], [VIRTIO_NET_F_MRG_RXBUF]])(
      'one buffer: header with num_buffers 1, frame, used length',
      {
        tags: [
          '5.1.9.4.1/one',
          '5.1.9.4.1/no-guest-csum',
          '5.1.9.4.1/no-tcp4',
          '5.1.9.4.1/no-udp',
          '5.1.9.4.1/no-tcp6',
          '5.1.9.4.1/no-udp-l4',
          '5.1.9.4.1/no-tunnel',
          '5.1.9.4.1/no-tunnel-csum',
          '5.1.9.4.1/gso-none',
          '5.1.9.4.1/no-rsc',
        ],
      },
      (...features) => {
        boot({}, ...features)
        const [at] = post(1526)
        expect(m.device.receive(pattern(64))).toBe(true)
        expect(m.rx.usedIndex).toBe(0)
        m.device.poll(0)
        expect(m.rx.reap()).toEqual([{ id: 0, length: NET_HEADER_SIZE + 64 }])
        expect([...m.ram.get(at, 12)]).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0])
        expect(m.ram.get(at + 12, 64)).toEqual(pattern(64))
        expect(m.ram.get(at + 76, 1526 - 76).every((byte) => byte === 0x55)).toBe(true)
        expect(m.line.asserted).toBe(true)
      },
    )

    test('frames at any place of their buffer, of any length', () => {
      boot({}, VIRTIO_NET_F_MRG_RXBUF)
      for (const length of [1, 7, 8, 63, 64, 65, 256, 257, 1514]) {
        const [at] = post(1526)
        const source = new Uint8Array(4096)
        source.set(pattern(length), 5 + length)
        expect(m.device.receive(source.subarray(5 + length, 5 + 2 * length))).toBe(true)
        m.device.poll(0)
        expect(m.ram.get(at + 12, length)).toEqual(pattern(length))
      }
    })

    test.each([[], [VIRTIO_NET_F_MRG_RXBUF]])(
      'features %j: a batch goes where its frames one by one go',
      (...features) => {
        const buffers = fc.array(fc.constantFrom(12, 20, 40, 100, 1526), { maxLength: 4 })
        const lengths = fc.array(fc.constantFrom(0, 1, 30, 60, 100, 300, 1600), { maxLength: 12 })
        const deliver = (batch: boolean, all: number[], posted: number[][]): unknown[] => {
          boot({}, ...features)
          const frames = new Frames(new Region(new ArrayBuffer(16 * 2048), 'frames'))
          all.forEach((length, i) => {
            frames.offsets[i] = i * 2048 + (i % 9)
            frames.lengths[i] = length
            frames.region.u8.set(pattern(length, i), frames.offsets[i])
          })
          frames.count = all.length
          const places: number[] = []
          let from = 0
          return posted.map((some) => {
            places.push(...post(...some))
            if (batch) from += m.device.receiveEach(frames, from, all.length)
            else while (from < all.length && m.device.receive(frames.bytes(from))) from++
            m.device.poll(0)
            const { receiveNoBuffer: _, ...counters } = m.device.counters
            return [from, m.rx.reap(), counters, places.map((at) => m.ram.get(at, 12 + 300))]
          })
        }
        fc.assert(
          fc.property(lengths, buffers, buffers, (all, ...posted) => {
            expect(deliver(true, all, posted)).toEqual(deliver(false, all, posted))
          }),
        )
      },
    )

    test('merged: thousands of frames over one to five buffers each, around the ring', () => {
      boot({ queueSize: 8 }, VIRTIO_NET_F_MRG_RXBUF)
      const places = Array.from({ length: 8 }, () => ({ address: m.ram.alloc(64), length: 64, w: true }))
      const idle = new Map<number, number>()
      let posted = 0
      const refill = (): void => {
        for (; posted < 8; posted++) {
          const place = places.findIndex((_, i) => ![...idle.values()].includes(i))
          const chain = m.rx.chain(places[place])
          idle.set(chain, place)
          m.rx.offer(chain)
        }
      }
      for (let n = 0; n < 2000; n++) {
        refill()
        const frame = pattern(40 + 53 * (n % 5), n)
        expect(m.device.receive(frame)).toBe(true)
        m.device.poll(0)
        const bytes = m.rx.reap().flatMap(({ id, length }) => {
          const { address } = places[idle.get(id) as number]
          idle.delete(id)
          posted--
          return [...m.ram.get(address, length)]
        })
        expect(new Uint8Array(bytes.slice(NET_HEADER_SIZE))).toEqual(frame)
      }
    })

    test('merged: all buffers but the last are filled, num_buffers counts them', {
      tags: ['5.1.9.3.2/num-buffers', '5.1.9.4.1/several', '5.1.9.4.1/filled', '5.1.9.4.1/together'],
    }, () => {
      boot({}, VIRTIO_NET_F_MRG_RXBUF)
      const at = post(100, 12, 100, 500)
      const frame = pattern(300)
      expect(m.device.receive(frame)).toBe(true)
      m.device.poll(0)
      expect(m.rx.reap()).toEqual([
        { id: 0, length: 100 },
        { id: 1, length: 12 },
        { id: 2, length: 100 },
        { id: 3, length: 100 },
      ])
      expect(m.ram.u16(at[0] + 10)).toBe(4)
      const joined = [m.ram.get(at[0] + 12, 88), m.ram.get(at[1], 12), m.ram.get(at[2], 100), m.ram.get(at[3], 100)]
      expect(Uint8Array.from(joined.flatMap((bytes) => [...bytes]))).toEqual(frame)
    })

    test('too few buffers: false, counted, and none of them is touched; later it fits', () => {
      boot({}, VIRTIO_NET_F_MRG_RXBUF)
      expect(m.device.receive(pattern(64))).toBe(false)
      const [at] = post(100)
      expect(m.device.receive(pattern(300))).toBe(false)
      expect(m.device.counters.receiveNoBuffer).toBe(2)
      expect(m.ram.get(at, 100).every((byte) => byte === 0x55)).toBe(true)
      post(300)
      expect(m.device.receive(pattern(300))).toBe(true)
      m.device.poll(0)
      expect(m.rx.reap()).toHaveLength(2)
    })

    test('a buffer that is too small without MRG_RXBUF: the frame is dropped, the buffer stays', {
      tags: ['5.1.9.3.2/one-buffer'],
    }, () => {
      post(100)
      expect(m.device.receive(pattern(300))).toBe(true)
      expect(m.device.counters).toMatchObject({ received: 0, receiveTooSmall: 1 })
      expect(m.device.receive(pattern(88))).toBe(true)
      m.device.poll(0)
      expect(m.rx.reap()).toEqual([{ id: 0, length: 100 }])
    })

    test('a ring full of buffers that are too small even together does not block for ever', () => {
      boot({}, VIRTIO_NET_F_MRG_RXBUF)
      post(...new Array<number>(8).fill(12))
      expect(m.device.receive(pattern(300))).toBe(true)
      expect(m.device.counters.receiveTooSmall).toBe(1)
      expect(m.device.receive(pattern(64))).toBe(true)
    })

    test('a header that is cut in pieces', () => {
      const at = m.ram.put(new Uint8Array(200).fill(0x55))
      m.rx.offer(
        m.rx.chain(
          { address: at, length: 1, w: true },
          { address: at + 1, length: 10, w: true },
          { address: at + 11, length: 150, w: true },
        ),
      )
      expect(m.device.receive(pattern(64))).toBe(true)
      m.device.poll(0)
      expect([...m.ram.get(at, 12)]).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0])
      expect(m.ram.get(at + 12, 64)).toEqual(pattern(64))
      expect(m.rx.reap()).toEqual([{ id: 0, length: 76 }])
    })

    test('a buffer that cannot hold the header breaks the queue', () => {
      post(11)
      expect(m.device.receive(pattern(64))).toBe(false)
      expect(m.device.faults.last()).toMatchObject([{ reason: 'receive-buffer', value: 11, limit: 12 }])
      expect(m.device.live).toBe(false)
      boot()
      m.rx.offer(m.rx.chain({ address: m.ram.alloc(100), length: 100 }))
      expect(m.device.receive(pattern(64))).toBe(false)
      expect(m.device.faults.last()).toMatchObject([{ reason: 'receive-buffer', value: 0 }])
    })

    test('empty and over-long frames are refused and counted', () => {
      post(2000)
      expect([m.device.receive(new Uint8Array(0)), m.device.receive(pattern(1515))]).toEqual([true, true])
      expect(m.device.counters).toMatchObject({ receiveOversize: 2, received: 0 })
      m.device.poll(64)
      expect(m.rx.usedIndex).toBe(0)
    })

    test('onDeviceWrite: once for each span', { tags: ['2.7.8.2/length-first'] }, () => {
      const [at] = post(1526)
      m.ram.writes.length = 0
      m.device.receive(pattern(64))
      m.device.poll(0)
      expect(m.ram.writes).toEqual([
        [at, 76],
        [m.rx.used + 4, 8],
        [m.rx.used + 2, 2],
      ])
    })

    test('with the event index, a device without buffers asks for a notification', () => {
      boot({}, 29)
      post(1526, 1526)
      m.device.receive(pattern(64))
      m.device.receive(pattern(64))
      expect(m.device.receive(pattern(64))).toBe(false)
      expect(m.rx.availEvent).toBe(2)
    })
  })

  describe('MTU and STATUS (§5.1.4)', () => {
    test('the negotiated MTU bounds both directions', { tags: ['5.1.4.1/mtu-receive', '5.1.4.1/mtu-transmit'] }, () => {
      for (const [features, longest] of [
        [[VIRTIO_NET_F_MTU], 9014],
        [[], 1514],
      ] as const) {
        boot({ mtu: 9000 }, ...features)
        transmit(pattern(longest))
        transmit(pattern(longest + 1))
        expect(link.frames.map(({ length }) => length)).toEqual([longest])
        post(10_000)
        expect([m.device.receive(pattern(longest + 1)), m.device.receive(pattern(longest))]).toEqual([true, true])
        expect(m.device.counters).toMatchObject({ received: 1, receiveOversize: 1 })
      }
      boot({ mtu: 68 }, VIRTIO_NET_F_MTU)
      transmit(pattern(83))
      expect(m.device.counters.transmitOversize).toBe(1)
    })

    test('the MTU that is shown does not change (§5.1.4.1)', { tags: ['5.1.4.1/mtu-fixed'] }, () => {
      boot({ mtu: 1400 }, VIRTIO_NET_F_MTU)
      const shown = [m.driver.config(10, 2)]
      m.driver.setConfig(10, 2, 9000)
      m.device.setLink(false)
      shown.push(m.driver.config(10, 2))
      m.driver.status = 0
      shown.push(m.driver.config(10, 2))
      expect(shown).toEqual([1400, 1400, 1400])
    })

    test('pulling the cable: status, interrupt, and frames dropped and counted', () => {
      boot({}, VIRTIO_NET_F_STATUS)
      post(1526)
      expect(m.driver.config(6, 2)).toBe(1)
      m.device.setLink(false)
      expect([m.driver.config(6, 2), m.driver.interrupting]).toEqual([0, true])
      m.device.poll(64)
      expect(m.line.asserted).toBe(true)
      expect(m.driver.acknowledge()).toBe(INTERRUPT_CONFIGURATION)
      transmit(pattern(64))
      expect(m.device.receive(pattern(64))).toBe(true)
      expect(m.device.counters).toMatchObject({ transmitUnlinked: 1, receiveUnlinked: 1, transmitted: 0, received: 0 })
      m.device.setLink(true)
      transmit(pattern(64))
      expect(link.frames).toHaveLength(1)
    })

    test.each<Partial<NetDeviceOptions>>([
      { mac: [1, 2, 3] },
      { mac: '52:54:00:01:02:03' as unknown as number[] },
      { mac: null as unknown as number[] },
      { mac: 7 as unknown as number[] },
      { port: undefined as unknown as NetDeviceOptions['port'] },
      { mac: [0x53, 0, 0, 0, 0, 1] },
      { mac: [2, 0, 0, 0, 0, 256] },
      { mtu: 67 },
      { mtu: 65536 },
      { mtu: 100.5 },
    ])('refused: %j', { tags: ['5.1.4.1/mtu-range'] }, (options) => {
      expect(() => netMachineOver(transport, options)).toThrow(
        expect.objectContaining({ code: 'DEVICE_OPTION', part: 'net0' }),
      )
    })
  })
})
