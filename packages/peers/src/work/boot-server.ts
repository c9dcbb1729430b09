import { eachFrame, type FrameReceiver, type NetLink } from '@guestdma/devices'

const SERVER_MAC = [2, 0, 0, 0, 5, 1]
const SERVER = [10, 0, 5, 1]
const CLIENT = [10, 0, 5, 2]
const BROADCAST = [255, 255, 255, 255]

// Behind the Ethernet header: RFC 826, RFC 791, RFC 768.
const TYPE = 12
const TYPE_ARP = 0x0806
const TYPE_IPV4 = 0x0800
const ARP_OPERATION = 20
const ARP_SENDER = 22
const ARP_TARGET = 32
const ARP_TARGET_IP = 38
const ARP_BYTES = 42
const IP = 14
const IP_BYTES = 20
const IP_UDP = 17
const UDP = IP + IP_BYTES
const PAYLOAD = UDP + 8

// RFC 2131, within the payload.
const DHCP_PORT = 67
const DHCP_CLIENT_PORT = 68
const DHCP_XID = 4
const DHCP_YIADDR = 16
const DHCP_SIADDR = 20
const DHCP_CHADDR = 28
const DHCP_FILE = 108
const DHCP_OPTIONS = 240
const DISCOVER = 1
const OFFER = 2
const REQUEST = 3
const ACK = 5

// RFC 1350.
const TFTP_PORT = 69
/** The port that answers, whoever asks. */
const TFTP_FROM = 2070
const READ_REQUEST = 1
const DATA = 3
const ACKNOWLEDGE = 4
const BLOCK = 512

/**
 * The network of a machine that boots from it: one address by DHCP, and files by TFTP, of which a client is told the
 * first. It answers whole frames in turn and repeats nothing, since nothing is lost here.
 */
export class BootServer implements NetLink {
  /** Names of files in the order in which they were asked for. */
  readonly asked: string[] = []
  /** Names of files whose last block was acknowledged. */
  readonly fetched: string[] = []
  private readonly files: Readonly<Record<string, Uint8Array>>
  private readonly waiting: Uint8Array<ArrayBuffer>[] = []
  private device: FrameReceiver | null = null

  constructor(files: Readonly<Record<string, Uint8Array>>) {
    this.files = files
  }

  attach(device: FrameReceiver): void {
    this.device = device
  }

  readonly transmit: NetLink['transmit'] = eachFrame((frame) => this.take(frame))

  private take(frame: Uint8Array<ArrayBuffer>): void {
    const view = new DataView(frame.buffer, frame.byteOffset, frame.length)
    const type = frame.length < ARP_BYTES ? 0 : view.getUint16(TYPE)
    if (type === TYPE_ARP && view.getUint16(ARP_OPERATION) === 1 && isAt(frame, ARP_TARGET_IP, SERVER)) this.arp(frame)
    else if (type === TYPE_IPV4 && frame[IP] === 0x45 && frame[IP + 9] === IP_UDP && frame.length > PAYLOAD) {
      const [from, to] = [view.getUint16(UDP), view.getUint16(UDP + 2)]
      const payload = frame.slice(PAYLOAD, UDP + view.getUint16(UDP + 4))
      if (to === DHCP_PORT) this.dhcp(payload)
      else if (to === TFTP_PORT || to === TFTP_FROM) this.tftp(frame.slice(6, 12), from, payload)
    }
  }

  deliver(budget: number): number {
    let count = 0
    while (count < budget && this.waiting.length > 0 && this.device?.receive(this.waiting[0]) === true) {
      this.waiting.shift()
      count++
    }
    return count
  }

  private arp(frame: Uint8Array<ArrayBuffer>): void {
    const answer = frame.slice(0, ARP_BYTES)
    answer.copyWithin(ARP_TARGET, ARP_SENDER, ARP_TARGET)
    answer.set([...SERVER_MAC, ...SERVER], ARP_SENDER)
    answer[ARP_OPERATION + 1] = 2
    answer.copyWithin(0, 6, 12)
    answer.set(SERVER_MAC, 6)
    this.send(answer)
  }

  private dhcp(asked: Uint8Array): void {
    const kind = option(asked, 53)?.[0]
    if (kind !== DISCOVER && kind !== REQUEST) return
    const answer = new Uint8Array(DHCP_OPTIONS + 32)
    answer.set([2, 1, 6, 0])
    answer.set(asked.subarray(DHCP_XID, DHCP_XID + 4), DHCP_XID)
    answer.set(CLIENT, DHCP_YIADDR)
    answer.set(SERVER, DHCP_SIADDR)
    answer.set(asked.subarray(DHCP_CHADDR, DHCP_CHADDR + 16), DHCP_CHADDR)
    answer.set(new TextEncoder().encode(Object.keys(this.files)[0]), DHCP_FILE)
    // The magic cookie; what it is, whose it is, for an hour, the netmask, and the end (RFC 2132).
    const answers = [
      53,
      1,
      kind === DISCOVER ? OFFER : ACK,
      54,
      4,
      ...SERVER,
      51,
      4,
      0,
      0,
      14,
      16,
      1,
      4,
      255,
      255,
      255,
      0,
    ]
    answer.set([0x63, 0x82, 0x53, 0x63, ...answers, 255], DHCP_OPTIONS - 4)
    const mac = asked.subarray(DHCP_CHADDR, DHCP_CHADDR + 6)
    this.datagram(mac, BROADCAST, DHCP_PORT, DHCP_CLIENT_PORT, answer)
  }

  private tftp(mac: Uint8Array, port: number, asked: Uint8Array): void {
    const view = new DataView(asked.buffer, asked.byteOffset, asked.length)
    if (view.getUint16(0) === READ_REQUEST) {
      // Options behind the name are not taken, so the first block comes at once (RFC 2347).
      const name = new TextDecoder('latin1').decode(asked.subarray(2, asked.indexOf(0, 2))).replace(/^\//, '')
      this.asked.push(name)
      if (this.files[name] !== undefined) this.block(mac, port, 1)
    } else if (view.getUint16(0) === ACKNOWLEDGE && this.asked.length > 0) {
      const last = this.files[this.asked[this.asked.length - 1]].length / BLOCK + 1
      const next = view.getUint16(2) + 1
      if (next <= last) this.block(mac, port, next)
      else this.fetched.push(this.asked[this.asked.length - 1])
    }
  }

  private block(mac: Uint8Array, port: number, number: number): void {
    const file = this.files[this.asked[this.asked.length - 1]]
    const data = file.subarray((number - 1) * BLOCK, number * BLOCK)
    const answer = new Uint8Array(4 + data.length)
    answer.set([0, DATA, number >>> 8, number])
    answer.set(data, 4)
    this.datagram(mac, CLIENT, TFTP_FROM, port, answer)
  }

  private datagram(mac: Uint8Array, to: readonly number[], from: number, port: number, payload: Uint8Array): void {
    const frame = new Uint8Array(PAYLOAD + payload.length)
    const view = new DataView(frame.buffer)
    frame.set(mac)
    frame.set(SERVER_MAC, 6)
    view.setUint16(TYPE, TYPE_IPV4)
    frame[IP] = 0x45
    view.setUint16(IP + 2, frame.length - IP)
    frame[IP + 8] = 64
    frame[IP + 9] = IP_UDP
    frame.set([...SERVER, ...to], IP + 12)
    let sum = 0
    for (let at = IP; at < UDP; at += 2) sum += view.getUint16(at)
    while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
    view.setUint16(IP + 10, ~sum)
    view.setUint16(UDP, from)
    view.setUint16(UDP + 2, port)
    // A checksum of 0 is none.
    view.setUint16(UDP + 4, frame.length - UDP)
    frame.set(payload, PAYLOAD)
    this.send(frame)
  }

  private send(frame: Uint8Array<ArrayBuffer>): void {
    this.waiting.push(frame)
    this.device?.wake()
  }
}

function isAt(bytes: Uint8Array, at: number, expected: readonly number[]): boolean {
  return expected.every((byte, i) => bytes[at + i] === byte)
}

function option(dhcp: Uint8Array, code: number): Uint8Array | null {
  for (let at = DHCP_OPTIONS; at + 1 < dhcp.length && dhcp[at] !== 255; at += 2 + dhcp[at + 1]) {
    if (dhcp[at] === code) return dhcp.subarray(at + 2, at + 2 + dhcp[at + 1])
  }
  return null
}
