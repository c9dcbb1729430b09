import type { Libc } from './libc.ts'

/** SCM_MAX_FD: Linux passes no more descriptors than this in one message. */
export const MAX_DESCRIPTORS = 253

const MSGHDR_BYTES = 56
const MSG_IOV = 16
const MSG_IOV_COUNT = 24
const MSG_CONTROL = 32
const MSG_CONTROL_BYTES = 40
const MSG_FLAGS = 48
const IOVEC_BYTES = 16

/** struct cmsghdr: a length of 64 bits, which includes this header, a level and a type. */
const CMSG_HEADER_BYTES = 16
const CMSG_ALIGN = 8
const SOL_SOCKET = 1
const SCM_RIGHTS = 1
const FD_BYTES = 4

/** The structures of sendmsg and recvmsg (struct msghdr of 64-bit Linux): one buffer, and descriptors beside it. */
export class SocketMessage {
  readonly header: Buffer = Buffer.alloc(MSGHDR_BYTES)
  private readonly piece: Buffer = Buffer.alloc(IOVEC_BYTES)
  private readonly control: Buffer = Buffer.alloc(CMSG_HEADER_BYTES + FD_BYTES * MAX_DESCRIPTORS + CMSG_ALIGN)
  private readonly libc: Libc

  constructor(libc: Libc) {
    this.libc = libc
    this.header.writeBigUInt64LE(libc.addressOf(this.piece), MSG_IOV)
    this.header.writeBigUInt64LE(1n, MSG_IOV_COUNT)
  }

  /** To send: `bytes`, and `fds`, at most {@link MAX_DESCRIPTORS}. The caller keeps `bytes` alive. */
  load(bytes: Uint8Array, fds: readonly number[]): void {
    this.point(bytes)
    this.room(fds.length)
    if (fds.length === 0) return
    this.control.writeBigUInt64LE(BigInt(CMSG_HEADER_BYTES + FD_BYTES * fds.length), 0)
    this.control.writeInt32LE(SOL_SOCKET, 8)
    this.control.writeInt32LE(SCM_RIGHTS, 12)
    for (const [index, fd] of fds.entries()) this.control.writeInt32LE(fd, CMSG_HEADER_BYTES + FD_BYTES * index)
  }

  /** To receive into `bytes`, with room for `fds` descriptors. The caller keeps `bytes` alive. */
  prepare(bytes: Uint8Array, fds: number): void {
    this.point(bytes)
    this.room(fds)
    this.header.writeInt32LE(0, MSG_FLAGS)
  }

  /** The flags of what was received. */
  get flags(): number {
    return this.header.readInt32LE(MSG_FLAGS)
  }

  /** The descriptors that were received. */
  descriptors(): number[] {
    const fds: number[] = []
    const end = Math.min(Number(this.header.readBigUInt64LE(MSG_CONTROL_BYTES)), this.control.length)
    for (let at = 0; at + CMSG_HEADER_BYTES <= end; ) {
      const length = Number(this.control.readBigUInt64LE(at))
      const isRights =
        this.control.readInt32LE(at + 8) === SOL_SOCKET && this.control.readInt32LE(at + 12) === SCM_RIGHTS
      if (length < CMSG_HEADER_BYTES) break
      for (let fd = at + CMSG_HEADER_BYTES; isRights && fd + FD_BYTES <= Math.min(at + length, end); fd += FD_BYTES) {
        fds.push(this.control.readInt32LE(fd))
      }
      at += Math.ceil(length / CMSG_ALIGN) * CMSG_ALIGN
    }
    return fds
  }

  private point(bytes: Uint8Array): void {
    this.piece.writeBigUInt64LE(this.libc.addressOf(bytes), 0)
    this.piece.writeBigUInt64LE(BigInt(bytes.length), 8)
  }

  // The exact length, not rounded up: room for an odd number must not take one more.
  private room(fds: number): void {
    this.header.writeBigUInt64LE(fds === 0 ? 0n : this.libc.addressOf(this.control), MSG_CONTROL)
    this.header.writeBigUInt64LE(fds === 0 ? 0n : BigInt(CMSG_HEADER_BYTES + FD_BYTES * fds), MSG_CONTROL_BYTES)
  }
}
