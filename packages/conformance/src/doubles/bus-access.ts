import { ACCESS_READ, ACCESS_WRITE, type BusPort } from '@guestdma/memory'

/**
 * The `length` bytes that a device reads at a device address through its port, or `null` where the port refuses one of
 * them.
 */
export function readBus(port: BusPort, address: number, length: number): Uint8Array<ArrayBuffer> | null {
  port.refresh()
  const bytes = new Uint8Array(length)
  for (let done = 0; done < length; ) {
    port.request[0] = address + done
    const granted = port.resolve(length - done, ACCESS_READ)
    if (granted === 0) return null
    bytes.set(port.region.u8.subarray(port.offset, port.offset + granted), done)
    done += granted
  }
  return bytes
}

/** Writes as a device does. Returns how many bytes the port let through, from the first on. */
export function writeBus(port: BusPort, address: number, bytes: Uint8Array): number {
  port.refresh()
  let done = 0
  while (done < bytes.length) {
    port.request[0] = address + done
    const granted = port.resolve(bytes.length - done, ACCESS_WRITE)
    if (granted === 0) return done
    port.region.u8.set(bytes.subarray(done, done + granted), port.offset)
    port.region.onDeviceWrite?.(port.offset, granted)
    done += granted
  }
  return done
}

/** Would the port let a device touch this one byte? */
export function reaches(port: BusPort, address: number, access: 1 | 2): boolean {
  if (address < 0) return false
  port.refresh()
  port.request[0] = address
  return port.resolve(1, access) > 0
}
