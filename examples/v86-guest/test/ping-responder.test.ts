import { type FrameReceiver, Frames } from '@guestdma/devices'
import { beforeEach, describe, expect, test } from 'vitest'
import { PingResponder } from '../src/ping-responder.ts'

// Whole frames, made and checked by another program: of 02:..:05:02 with 10.0.5.2, to and from 02:..:05:01 with 10.0.5.1.
const TO = '020000000501020000000502'
const FROM = '020000000502020000000501'
const ASKED = '0a0005020a000501'
const ANSWERED = '0a0005010a000502'

const known = [
  [
    'an ARP request for its address',
    'ffffffffffff020000000502080600010800060400010200000005020a0005020000000000000a000501',
    `${FROM}080600010800060400020200000005010a0005010200000005020a000502`,
  ],
  [
    'a ping',
    `${TO}0800450000241234400040010aa3${ASKED}08003f450a0b00016775657374646d61`,
    `${FROM}0800450000241234400040010aa3${ANSWERED}000047450a0b00016775657374646d61`,
  ],
  [
    'a ping whose checksum carries',
    `${TO}0800450000241234400040010aa3${ASKED}0800fffe495100016775657374646d61`,
    `${FROM}0800450000241234400040010aa3${ANSWERED}000007ff495100016775657374646d61`,
  ],
  [
    'a ping behind IP options',
    `${TO}080046000028123440004001759a${ASKED}9404000008004949000700016775657374646d61`,
    `${FROM}080046000028123440004001759a${ANSWERED}9404000000005149000700016775657374646d61`,
  ],
  [
    'the first fragment of a ping',
    `${TO}0800450000241234200040012aa3${ASKED}0800ce0f000700027369787465656e20`,
    `${FROM}0800450000241234200040012aa3${ANSWERED}0000d60f000700027369787465656e20`,
  ],
  [
    'its last fragment, as it came',
    `${TO}08004500001c1234000240014aa9${ASKED}62797465732c2078`,
    `${FROM}08004500001c1234000240014aa9${ANSWERED}62797465732c2078`,
  ],
] as const

const silent = [
  ['an ARP request for another address', `${known[0][1].slice(0, -2)}07`],
  ['an answer to ARP', known[0][1].replace('06040001', '06040002')],
  ['a ping of another address', known[1][1].replace(ASKED, '0a0005020a000507')],
  ['an answer to a ping', known[1][1].replace('08003f45', '00003f45')],
  ['another protocol', known[1][1].replace('40010aa3', '40110aa3')],
  ['an IP header that goes on behind the end', known[1][1].replace('08004500', '08004f00')],
  ['a frame that is too short', known[1][1].slice(0, 60)],
] as const

describe('the station that answers pings', () => {
  let link: PingResponder
  let room: boolean
  let woken: number
  let received: string[]

  beforeEach(() => {
    link = new PingResponder()
    room = true
    woken = 0
    received = []
    const device: FrameReceiver = {
      live: true,
      wake: () => woken++,
      receive: (frame) => {
        if (room) received.push(Buffer.from(frame).toString('hex'))
        return room
      },
      receiveEach: () => 0,
    }
    link.attach(device)
  })

  const send = (frame: string): number => link.transmit(Frames.of(Buffer.from(frame, 'hex')))

  test.each(known)('answers %s', (_what, frame, answer) => {
    send(frame)
    expect(woken).toBe(1)
    expect([link.deliver(8), received]).toEqual([1, [answer]])
    expect(link.counters.other).toBe(0)
  })

  test.each(silent)('says nothing to %s', (_what, frame) => {
    send(frame)
    expect([link.deliver(8), received, woken]).toEqual([0, [], 0])
    expect(link.counters).toEqual({ arp: 0, echo: 0, other: 1 })
  })

  test('keeps answers until the device has room for them, and their order', () => {
    const [arp, ping] = known
    room = false
    for (const [, frame] of [ping, arp, ping]) send(frame)
    expect([link.deliver(8), received]).toEqual([0, []])
    room = true
    expect([link.deliver(2), link.deliver(8)]).toEqual([2, 1])
    expect(received).toEqual([ping[2], arp[2], ping[2]])
  })

  test('forgets its answers when the cable is pulled', () => {
    send(known[1][1])
    link.unplugged()
    expect([link.deliver(8), received]).toEqual([0, []])
  })
})
