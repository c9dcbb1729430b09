import { type PeerCase, type PeerProgram, programPeer, SkippedCase } from '@guestdma/peers'

const labels = {
  peer: 'here',
  role: 'device',
  driver: 'blk',
  ring: 'split',
  backend: 'direct',
  transport: 'pci',
} as const

export const peers: readonly PeerProgram[] = [
  programPeer('here', 'Node', process.execPath, ['nodejs']),
  {
    ...programPeer('nowhere', 'a program that nobody has', 'guestdma-no-such-program', ['one', 'two']),
    command: 'make three',
  },
]

/** Each ends in another way. */
export const cases: readonly PeerCase[] = [
  {
    ...labels,
    what: 'passes',
    async run({ saw, figure }) {
      saw('all')
      figure('requests', 3)
      figure('requests', 4)
      figure('reach', 'a pool')
    },
  },
  {
    ...labels,
    what: 'throws',
    run: () => Promise.reject(new Error('byte 3 is 5 where 7 was written')),
  },
  {
    ...labels,
    what: 'hangs',
    deadlineMs: 1500,
    run: ({ saw }) => {
      saw('the doorbell of queue 1')
      setInterval(() => {}, 1000)
      return new Promise(() => {})
    },
  },
  { ...labels, what: 'skips', run: () => Promise.reject(new SkippedCase('no KVM here')) },
  {
    ...labels,
    what: 'dies',
    run: async ({ saw }) => {
      saw('register 0x70')
      process.stderr.write('out of luck\n')
      process.kill(process.pid, 'SIGKILL')
      await new Promise(() => {})
    },
  },
  { ...labels, what: 'prints', run: async () => void process.stdout.write('{"outcome":"maybe"}\n{ not JSON\n') },
  { ...labels, peer: 'nowhere', what: '', run: () => Promise.reject(new Error('never run')) },
]
