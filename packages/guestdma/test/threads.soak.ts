import { inject, test } from 'vitest'
import { blkSoak, netSoak, type SoakGoal } from './support/threads-soak.ts'
import { BUSES } from './support/worker-bus.ts'
import { FORMATS, WORKER_SCHEMES } from './support/workers.ts'

const { seed, milliseconds } = inject('soak')

/** `SOAK_THREADS=whole` moves 10^7 packets and 10^6 block requests, however long that takes. */
const whole = process.env.SOAK_THREADS === 'whole'
const PACKETS = 1e7
const REQUESTS = 1e6

// Every scheme with both formats; packets and requests together bring each scheme to each bus.
const casesFrom = (first: number) =>
  WORKER_SCHEMES.flatMap((scheme, i) =>
    FORMATS.map((format, j) => [scheme, BUSES[(first + i + j) % BUSES.length], format] as const),
  )
const PACKET_CASES = casesFrom(0)
const REQUEST_CASES = casesFrom(1)
const COUNT = PACKET_CASES.length
const WHOLE_MS = 600_000
/** A wake-up that is lost shows in a test that never ends. */
const TIMEOUT_MS = whole ? WHOLE_MS : milliseconds + 60_000

// Half of the time is for packets.
const goalOf = (count: number): SoakGoal =>
  whole
    ? { count: Math.ceil(count / COUNT), milliseconds: WHOLE_MS }
    : { count: Infinity, milliseconds: milliseconds / COUNT / 2 }

test.each(PACKET_CASES)(
  'two threads, %s, %s, %s: no packet is lost, comes twice or out of order',
  async (scheme, bus, format) =>
    console.log(await netSoak({ scheme, bus, packed: format === 'packed' }, goalOf(PACKETS), seed)),
  TIMEOUT_MS,
)

test.each(REQUEST_CASES)(
  'two threads, %s, %s, %s: every block request is done once, or ends with an error',
  async (scheme, bus, format) =>
    console.log(await blkSoak({ scheme, bus, packed: format === 'packed' }, goalOf(REQUESTS), seed)),
  TIMEOUT_MS,
)
