import type { RegisterBus } from '@guestdma/memory'
import { TransportError, TransportLostError } from './errors.ts'

/**
 * A register bus as a transport uses it. An access that fails is a lost connection, whatever the bus throws; an answer
 * is cut to the width of the access, since a device is not trusted to keep to it.
 */
export class GuardedBus implements RegisterBus {
  private readonly bus: RegisterBus
  private readonly device: string

  constructor(bus: RegisterBus, device: string) {
    this.bus = bus
    this.device = device
  }

  /** @throws TransportLostError */
  read(offset: number, size: 1 | 2 | 4): number {
    try {
      const value = this.bus.read(offset, size)
      return size === 4 ? value >>> 0 : value & (size === 2 ? 0xffff : 0xff)
    } catch (error) {
      throw this.lost(error)
    }
  }

  /** @throws TransportLostError */
  write(offset: number, size: 1 | 2 | 4, value: number): void {
    try {
      this.bus.write(offset, size, value)
    } catch (error) {
      throw this.lost(error)
    }
  }

  private lost(error: unknown): TransportError {
    return error instanceof TransportError ? error : new TransportLostError(this.device, error)
  }
}
