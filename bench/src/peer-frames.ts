import { FrameBatch, type Machine } from 'guestdma'
import { MAC } from './peer-machine.ts'

export const FRAME = 64
/** Bytes of the virtio-net header before a frame. */
export const HEADER = 12
export const BATCH = 32
/** Ethernet header of the frames that are sent. */
export const ETHERNET: readonly number[] = [2, 0, 0, 0, 0, 9, ...MAC, 0x88, 0xb5]

/**
 * Frames go out in batches of the driver's own buffers, as many as the peer takes, and come back. What is returned does
 * some of that and returns how many frames came.
 */
export function pooledExchange(machine: Machine): () => number {
  const net = machine.net('dev0')
  const { counters } = net
  const batch = new FrameBatch(BATCH)
  batch.length.fill(FRAME)
  // Every buffer is filled once: what is compared is how frames move, and not how they are made.
  const all: number[] = []
  for (let buffer = net.acquire(); buffer >= 0; buffer = net.acquire()) all.push(buffer)
  for (const buffer of all) net.bufferRegion.u8.set(ETHERNET, net.bufferOffset(buffer))
  for (const buffer of all) net.release(buffer)
  return () => {
    const before = counters.framesReceived
    let count = 0
    while (count < BATCH) {
      const buffer = net.acquire()
      if (buffer < 0) break
      batch.buffer[count++] = buffer
    }
    batch.count = count
    const sent = net.send(batch)
    for (let i = sent; i < count; i++) net.release(batch.buffer[i])
    net.poll(256)
    return counters.framesReceived - before
  }
}
