import { join } from 'node:path'
import type { BusWindows, VirtioDevice } from '@guestdma/devices'
import { type Peer, spawnPeer, type UnixListener, UnixSocket, waitReadable } from '@guestdma/node'
import { VhostUserBackEnd } from '@guestdma/vhost-user'
import { expectIs } from '../work/workloads.ts'

const DEADLINE_MS = 30_000

/** A device model of ours, and the program of somebody else that drives it. */
export interface Served {
  readonly peer: Peer
  readonly backEnd: VhostUserBackEnd
  /** Serves until `done`. */
  until(done: () => boolean, what: string): Promise<void>
}

/** Starts a program that connects to a socket, serves it a device, and ends both. */
export async function withServed(
  device: VirtioDevice,
  port: BusWindows,
  command: string,
  args: (socket: string) => readonly string[],
  files: readonly string[],
  body: (served: Served) => Promise<void>,
): Promise<void> {
  let listener: UnixListener | null = null
  const backEnd = new VhostUserBackEnd({ device, port })
  const peer = spawnPeer({
    command,
    args: (dir) => {
      listener = UnixSocket.listen(join(dir, 's'))
      return args(join(dir, 's'))
    },
    files,
  })
  try {
    backEnd.serve((listener as unknown as UnixListener).accept(DEADLINE_MS))
    await body({
      peer,
      backEnd,
      async until(done, what) {
        for (const end = performance.now() + DEADLINE_MS; !done(); ) {
          if (performance.now() > end)
            throw new Error(`${what}: not in ${DEADLINE_MS} ms; it printed: ${peer.output()}`)
          if (backEnd.lost !== null) throw new Error(`${what}: ${backEnd.lost.message}; it printed: ${peer.output()}`)
          if (backEnd.poll(64) === 0) waitReadable(backEnd.descriptors, 2)
          await new Promise((resolve) => setImmediate(resolve))
        }
      },
    })
    expectIs('faults of the device', device.faults.last(), [])
  } finally {
    backEnd.close()
    ;(listener as UnixListener | null)?.close()
    await peer.close()
  }
}
