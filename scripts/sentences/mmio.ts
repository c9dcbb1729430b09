import type { Chapter } from './sentence.ts'

export const mmio: Chapter = {
  title: 'Virtio over MMIO',
  sections: [
    {
      number: '4.2.2.1',
      title: 'Device Requirements: MMIO Device Register Layout',
      side: 'device',
      sentences: {
        magic: ['MUST', 'MagicValue reads 0x74726976.'],
        version: ['MUST', 'Version reads 2.'],
        'interrupt-status': ['MUST', 'InterruptStatus shows each event until it is acknowledged.'],
        'interrupt-bits': ['MUST', 'InterruptStatus shows no undefined bit.'],
        reset: ['MUST', 'A reset clears InterruptStatus and every QueueReady.'],
        generation: ['MUST', 'ConfigGeneration changes where a driver could see an inconsistent configuration.'],
        'ready-first': ['MUST NOT', 'The device does not touch a queue whose QueueReady is 0.'],
        'queue-reset-at-reset': ['MUST', 'A reset of the device sets QueueReset to 0.'],
        'queue-reset-at-enable': ['MUST', 'QueueReset reads 0 after the queue was enabled.'],
        'queue-reset': ['MUST', 'A 1 written to QueueReset resets the queue.'],
        'queue-reset-pending': ['MUST', 'QueueReset reads 1 while the reset goes on.'],
        'queue-reset-done': ['MUST', 'After the reset QueueReset and QueueReady read 0.'],
      },
    },
    {
      number: '4.2.2.2',
      title: 'Driver Requirements: MMIO Device Register Layout',
      side: 'driver',
      sentences: {
        registers: ['MUST NOT', 'The driver uses only the described registers, in their direction.'],
        words: ['MUST', 'The driver accesses control registers as aligned 32-bit words.'],
        'config-width': ['MUST', 'The driver accesses configuration fields in their width.'],
        magic: ['MUST', 'The driver ignores a device with another magic value.'],
        version: ['MUST', 'The driver ignores a device of another version.'],
        'no-device': ['MUST, MUST NOT', 'The driver ignores a device ID of 0 without an error.'],
        'device-features': ['MUST', 'The driver writes DeviceFeaturesSel before it reads DeviceFeatures.'],
        'driver-features': ['MUST', 'The driver writes DriverFeaturesSel before it writes DriverFeatures.'],
        'queue-size': ['MUST', 'The driver writes a QueueSize of at most QueueSizeMax.'],
        ready: ['MUST NOT', 'The driver writes no queue register while QueueReady is set.'],
        stop: ['MUST', 'To stop a queue, the driver writes 0 to QueueReady and reads it back.', 'queueReset'],
        'undefined-bits': ['MUST', 'The driver ignores undefined bits of InterruptStatus.'],
        acknowledge: ['MUST, MUST NOT', 'The driver acknowledges the events that it handled, and no undefined bit.'],
        'queue-reset': ['MUST NOT', "The driver takes a queue's reset as done only when QueueReset reads 0."],
      },
    },
    {
      number: '4.2.3.1.1',
      title: 'Driver Requirements: Device Initialization',
      side: 'driver',
      sentences: {
        'magic-first': ['MUST', 'The driver begins with MagicValue and Version.'],
        'device-id': ['MUST, MUST NOT', 'Next the driver reads DeviceID, and stops if it is 0.'],
        'shared-memory': ['MUST NOT', 'The driver does not use shared memory registers that it does not expect.'],
        'general-procedure': ['MUST', 'The driver then goes on with the general initialisation.'],
      },
    },
    {
      number: '4.2.3.4.1',
      title: 'Driver Requirements: Notifications From The Device',
      side: 'driver',
      sentences: {
        'read-status': ['MUST', 'After an interrupt the driver reads InterruptStatus.'],
        'all-queues': ['SHOULD', 'The driver takes the used buffer bit to concern every queue.'],
        // The text says "after the interrupt is handled". Nobody can do that: InterruptStatus has one bit for all queues,
        // and an acknowledgement at the end clears the bit of what was used in between, unseen.
        acknowledge: [
          'MUST',
          'The driver acknowledges what it read from InterruptStatus in InterruptACK, before it looks at the queues.',
        ],
      },
    },
  ],
}
