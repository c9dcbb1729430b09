/** Why sentences have no test. */
export interface Cause {
  /** `not applicable`: nothing that is planned will make them apply. */
  readonly kind: 'not built' | 'not applicable'
  readonly why: string
  /**
   * What the README's table "Not supported" says of it: the name of the row and words in it. When the README no longer
   * says so, the sentences need tests.
   */
  readonly readme?: readonly [row: string, words: string]
}

export const reasons = {
  legacy: {
    kind: 'not applicable',
    why: 'Nothing here has a legacy interface.',
    readme: ['Transport', 'legacy (pre-1.0) devices'],
  },
  noExports: { kind: 'not applicable', why: 'No device type here exports objects.' },
  noSharedMemory: { kind: 'not applicable', why: 'No device type here has shared memory regions of its own.' },
  addInCard: { kind: 'not applicable', why: 'No device model is an add-in card.' },
  ownersChoice: {
    kind: 'not applicable',
    why: 'Who makes a device model chooses its mtu, from 68 on; without one MTU is not offered.',
  },
  queueReset: {
    kind: 'not applicable',
    why: 'The drivers stop a queue by QueueReset, or with the device.',
  },
  administration: {
    kind: 'not built',
    why: 'VIRTIO_F_ADMIN_VQ is neither offered nor accepted.',
    readme: ['Transport', 'administration queues'],
  },
  srIov: {
    kind: 'not built',
    why: 'The drivers do not accept VIRTIO_F_SR_IOV.',
    readme: ['Transport', 'virtual functions (SR-IOV)'],
  },
  vendorData: {
    kind: 'not built',
    why: 'The device models have no such capability.',
    readme: ['Transport', 'vendor data'],
  },
  offloads: { kind: 'not built', why: 'No offload is offered or accepted.', readme: ['virtio-net', 'offloads'] },
  ipsec: { kind: 'not built', why: 'IPsec is neither offered nor accepted.', readme: ['virtio-net', 'IPsec'] },
  queuePairs: { kind: 'not built', why: 'There is one queue pair.', readme: ['virtio-net', 'several queue pairs'] },
  controlQueue: { kind: 'not built', why: 'There is no control queue.', readme: ['virtio-net', 'a control queue'] },
  flowFilter: {
    kind: 'not built',
    why: 'There is no administration queue to set filters with.',
    readme: ['virtio-net', 'flow filter'],
  },
  speed: {
    kind: 'not built',
    why: 'SPEED_DUPLEX is neither offered nor accepted.',
    readme: ['virtio-net', 'speed and duplex'],
  },
  standby: { kind: 'not built', why: 'The driver does not accept STANDBY.', readme: ['virtio-net', 'STANDBY'] },
  madeAddress: {
    kind: 'not built',
    why: 'The driver makes no address up; its user has to.',
    readme: ['virtio-net', 'an address where the device has none'],
  },
  mergeable: {
    kind: 'not built',
    why: 'The driver does not accept MRG_RXBUF.',
    readme: ['virtio-net', 'mergeable buffers in the driver'],
  },
  discard: {
    kind: 'not built',
    why: 'Nothing discards or writes zeroes.',
    readme: ['virtio-blk', 'discard, write zeroes'],
  },
  erase: { kind: 'not built', why: 'Nothing erases securely.', readme: ['virtio-blk', 'secure erase'] },
  lifetime: { kind: 'not built', why: 'No store has lifetime metrics.', readme: ['virtio-blk', 'lifetime'] },
  zones: { kind: 'not built', why: 'No store has zones, and the driver drives none.', readme: ['virtio-blk', 'zones'] },
  cacheMode: {
    kind: 'not built',
    why: 'The driver does not accept CONFIG_WCE.',
    readme: ['virtio-blk', 'the cache mode in the driver'],
  },
  sharedDomains: {
    kind: 'not built',
    why: 'The driver attaches one endpoint to a domain.',
    readme: ['virtio-iommu', 'domains of several endpoints in the driver'],
  },
  bypassDomains: {
    kind: 'not built',
    why: 'The driver makes no bypass domain.',
    readme: ['virtio-iommu', 'bypass domains'],
  },
  mmioMappings: { kind: 'not built', why: 'The driver maps RAM only.', readme: ['virtio-iommu', 'the MMIO flag'] },
} as const satisfies Record<string, Cause>

export type Reason = keyof typeof reasons
