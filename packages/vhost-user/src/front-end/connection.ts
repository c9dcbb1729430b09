import { closeSync } from 'node:fs'
import { type UnixSocket, waitReadable } from '@guestdma/node'
import { Deadline, TransportLostError, type Wait } from '@guestdma/transport'
import { decodeAnswer, encodeRequest } from '../protocol/codec.ts'
import { VhostUserError } from '../protocol/errors.ts'
import { MessageReader } from '../protocol/message-reader.ts'
import { FRONT_END_MESSAGES, type MessageType } from '../protocol/messages.ts'
import type { BackEndRequests } from './back-end-requests.ts'

/** How long a wait blocks before it looks at its deadline and lets the platform run. */
const SLICE_MS = 1
/** Bytes of one receive. */
const RECEIVE_BYTES = 4096

/**
 * The front end's side of a connection: requests and their answers, one at a time.
 *
 * Whatever goes wrong with the stream itself loses the connection, since nobody knows where the next message would
 * begin: the socket is closed, and every later call throws the same `TransportLostError`.
 */
export class Connection {
  readonly name: string
  lost: TransportLostError | null = null
  /** REPLY_ACK was agreed: every request is answered. */
  acknowledged = false
  /** What the back end asks for by itself. It is served while this end waits, since the back end may wait for it. */
  requests: BackEndRequests | null = null
  private readonly socket: UnixSocket
  private readonly wait: Wait
  private readonly deadline: Deadline
  private readonly reader: MessageReader

  /** Owns `socket` from now on. Throws TransportError `TRANSPORT_WAIT`. */
  constructor(name: string, socket: UnixSocket, wait: Wait) {
    this.name = name
    this.socket = socket
    this.wait = wait
    this.deadline = new Deadline(name, wait)
    this.reader = new MessageReader({ part: name, types: FRONT_END_MESSAGES, answers: true, close: closeSync })
  }

  /** The descriptors on which something may arrive. */
  get descriptors(): number[] {
    if (this.lost !== null) return []
    return this.requests === null ? [this.socket.fd] : [this.socket.fd, this.requests.descriptor]
  }

  /**
   * Sends a request that has no answer of its own; where REPLY_ACK was agreed, waits until the back end has done it.
   *
   * @throws VhostUserError `VHOST_REFUSED`; TransportLostError
   */
  tell<Request>(type: MessageType<Request, number>, value: Request, descriptors: readonly number[] = []): void {
    this.send(encodeRequest(type, value, this.acknowledged), descriptors)
    if (!this.acknowledged) return
    const result = this.receive(type)
    if (result === 0) return
    const text = `the back end refused ${type.name} with ${result}`
    throw new VhostUserError('VHOST_REFUSED', this.name, text, { request: type.request, result })
  }

  /** Sends a request and waits for its answer. Throws TransportLostError. */
  ask<Request, Answer>(type: MessageType<Request, Answer>, value: Request): Answer {
    this.send(encodeRequest(type, value, false))
    return this.receive(type)
  }

  /** Sends whole messages. Throws TransportLostError. */
  send(bytes: Uint8Array, descriptors: readonly number[] = []): void {
    this.requireAlive()
    this.orLose(() => this.socket.send(bytes, descriptors, this.deadline.ms))
  }

  /** Waits for the answer to a request of this type. Throws TransportLostError. */
  receive<Answer>(type: MessageType<unknown, Answer>): Answer {
    this.requireAlive()
    return this.orLose(() => {
      this.deadline.begin()
      for (;;) {
        const message = this.reader.next()
        if (message !== null) return decodeAnswer(this.name, type, message)
        this.wait.pump()
        if (this.deadline.passed()) {
          const text = `the back end did not answer ${type.name} within ${this.deadline.ms} ms`
          throw new VhostUserError('VHOST_TIMEOUT', this.name, text, { request: type.request, ms: this.deadline.ms })
        }
        this.look(SLICE_MS)
      }
    })
  }

  /** Takes what has arrived, and finds out whether the other end is still there. Throws TransportLostError. */
  check(): void {
    this.requireAlive()
    this.orLose(() => {
      this.look(0)
      const message = this.reader.next()
      if (message === null) return
      const { request } = message
      throw new VhostUserError('VHOST_REQUEST', this.name, `nobody asked for the answer to ${request}`, { request })
    })
  }

  /** Throws TransportLostError where the connection is known to be lost. */
  requireAlive(): void {
    if (this.lost !== null) throw this.lost
  }

  /** Idempotent. */
  close(): void {
    if (this.lost === null) this.end(new VhostUserError('VHOST_CLOSED', this.name, 'this end closed the connection'))
  }

  private look(ms: number): void {
    for (const descriptor of waitReadable(this.descriptors, ms)) {
      if (descriptor === this.socket.fd) {
        const { bytes, fds } = this.socket.receive(RECEIVE_BYTES, 0)
        if (bytes.length === 0) this.reader.end()
        this.reader.push(bytes, fds)
      } else {
        this.requests?.serve()
      }
    }
  }

  private orLose<T>(step: () => T): T {
    try {
      return step()
    } catch (error) {
      throw this.lost ?? this.end(error)
    }
  }

  private end(cause: unknown): TransportLostError {
    this.lost = new TransportLostError(this.name, cause)
    this.reader.dispose()
    this.requests?.close()
    this.socket.close()
    return this.lost
  }
}
