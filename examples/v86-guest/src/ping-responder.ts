// The other end of the guest's network: it answers ARP and pings for one address.
import { eachFrame, type FrameReceiver, type NetLink } from '@guestdma/devices'

const MAC = [0x02, 0x00, 0x00, 0x00, 0x05, 0x01]
const IP = [10, 0, 5, 1]

const TYPE = 12
const TYPE_IPV4 = 0x0800
const TYPE_ARP = 0x0806
/** RFC 826, behind the Ethernet header. */
const ARP_OPERATION = 20
const ARP_SENDER = 22
const ARP_SENDER_IP = 28
const ARP_TARGET = 32
const ARP_TARGET_IP = 38
const ARP_BYTES = 42
const ARP_REQUEST = 1
const ARP_REPLY = 2
/** RFC 791. */
const IP_HEADER = 14
const IP_FRAGMENT = 20
const IP_PROTOCOL = 23
const IP_SOURCE = 26
const IP_TARGET = 30
const IP_LEAST = 34
const PROTOCOL_ICMP = 1
/** RFC 792. */
const ECHO = 8

export class PingResponder implements NetLink {
  readonly counters = { arp: 0, echo: 0, other: 0 }
  private readonly waiting: Uint8Array<ArrayBuffer>[] = []
  private device: FrameReceiver | null = null

  attach(device: FrameReceiver): void {
    this.device = device
  }

  readonly transmit: NetLink['transmit'] = eachFrame((frame) => this.take(frame))

  private take(frame: Uint8Array<ArrayBuffer>): void {
    const answer = frame.slice()
    const view = new DataView(answer.buffer)
    const type = frame.length < IP_LEAST ? 0 : view.getUint16(TYPE)
    if (type === TYPE_ARP && isOurs(frame, ARP_TARGET_IP) && this.arp(answer, view)) this.counters.arp++
    else if (type === TYPE_IPV4 && isOurs(frame, IP_TARGET) && this.echo(answer, view)) this.counters.echo++
    else {
      this.counters.other++
      return
    }
    answer.copyWithin(0, 6, 12)
    answer.set(MAC, 6)
    this.waiting.push(answer)
    this.device?.wake()
  }

  deliver(budget: number): number {
    let count = 0
    while (count < budget && this.waiting.length > 0 && this.device?.receive(this.waiting[0]) === true) {
      this.waiting.shift()
      count++
    }
    return count
  }

  unplugged(): void {
    this.waiting.length = 0
  }

  private arp(answer: Uint8Array, view: DataView): boolean {
    if (answer.length < ARP_BYTES || view.getUint16(ARP_OPERATION) !== ARP_REQUEST) return false
    answer.copyWithin(ARP_TARGET, ARP_SENDER, ARP_TARGET)
    answer.set(MAC, ARP_SENDER)
    answer.set(IP, ARP_SENDER_IP)
    view.setUint16(ARP_OPERATION, ARP_REPLY)
    return true
  }

  // Fragments go back as they came; only the first one has the ICMP header.
  private echo(answer: Uint8Array, view: DataView): boolean {
    const icmp = IP_HEADER + (answer[IP_HEADER] & 15) * 4
    if (answer[IP_PROTOCOL] !== PROTOCOL_ICMP || icmp + 4 > answer.length) return false
    if ((view.getUint16(IP_FRAGMENT) & 0x1fff) === 0) {
      if (answer[icmp] !== ECHO) return false
      answer[icmp] = 0
      // The checksum is a one's complement, and the first word lost 0x0800.
      const sum = view.getUint16(icmp + 2) + (ECHO << 8)
      view.setUint16(icmp + 2, (sum & 0xffff) + (sum >>> 16))
    }
    answer.copyWithin(IP_TARGET, IP_SOURCE, IP_TARGET)
    answer.set(IP, IP_SOURCE)
    return true
  }
}

function isOurs(frame: Uint8Array, at: number): boolean {
  return IP.every((byte, i) => frame[at + i] === byte)
}
