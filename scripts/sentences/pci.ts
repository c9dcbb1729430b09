import type { Chapter } from './sentence.ts'

export const pci: Chapter = {
  title: 'Virtio over PCI',
  sections: [
    {
      number: '4.1.1',
      title: 'Device Requirements: Virtio Over PCI Bus',
      side: 'device',
      sentences: {
        pci: ['MUST', 'The device has the interface that its PCI specification demands.'],
      },
    },
    {
      number: '4.1.2.1',
      title: 'Device Requirements: PCI Device Discovery',
      side: 'device',
      sentences: {
        vendor: ['MUST', 'The vendor ID is 0x1AF4.'],
        'device-id': ['MUST', 'The device ID is 0x1040 plus the virtio device type.'],
        'device-id-range': ['SHOULD', 'A non-transitional device has an ID from 0x1040 to 0x107F.'],
        revision: ['SHOULD', 'The revision is 1 or higher.'],
        subsystem: ['SHOULD', 'The subsystem ID is 0x40 or higher.'],
      },
    },
    {
      number: '4.1.2.2',
      title: 'Driver Requirements: PCI Device Discovery',
      side: 'driver',
      sentences: {
        'modern-ids': ['MUST', 'The driver matches the vendor and the modern device IDs.'],
        'transitional-ids': ['MUST', 'The driver matches transitional device IDs too.'],
        'any-revision': ['MUST', 'The driver accepts any revision.'],
      },
    },
    {
      number: '4.1.2.3',
      title: 'Legacy Interfaces: A Note on PCI Device Discovery',
      side: 'both',
      sentences: {
        'legacy-interface': ['MUST', 'The rules of the legacy interface.', 'legacy', 3],
      },
    },
    {
      number: '4.1.3.1',
      title: 'Driver Requirements: PCI Device Layout',
      side: 'driver',
      sentences: {
        'config-width': ['MUST', 'The driver accesses configuration fields in their width.'],
      },
    },
    {
      number: '4.1.3.2',
      title: 'Device Requirements: PCI Device Layout',
      side: 'device',
      sentences: {
        halves: ['MUST', 'The device allows 64-bit fields to be accessed as two halves.'],
      },
    },
    {
      number: '4.1.4.1',
      title: 'Driver Requirements: Virtio Structure PCI Capabilities',
      side: 'driver',
      sentences: {
        'reserved-type': ['MUST', 'The driver ignores capabilities of a reserved cfg_type.'],
        'first-instance': ['SHOULD', 'The driver uses the first instance of a structure that it can support.'],
        'cap-len': ['MUST', 'The driver accepts a larger cap_len.'],
        'reserved-bar': ['MUST', 'The driver ignores capabilities with a reserved BAR.'],
        'map-needed': ['SHOULD', 'The driver maps no more of a structure than it needs.'],
        'large-length': ['MUST', 'The driver accepts a structure that is unexpectedly long.'],
        'capabilities-unwritten': ['MUST NOT', 'The driver writes no capability but the configuration access window.'],
      },
    },
    {
      number: '4.1.4.2',
      title: 'Device Requirements: Virtio Structure PCI Capabilities',
      side: 'device',
      sentences: {
        'cap-len': ['MUST', 'cap_len covers the whole capability.'],
        preference: ['SHOULD', 'If a structure exists several times, the device lists the preferred instance first.'],
      },
    },
    {
      number: '4.1.4.3.1',
      title: 'Device Requirements: Common configuration structure layout',
      side: 'device',
      sentences: {
        offset: ['MUST', 'The common configuration lies at a multiple of 4.'],
        exists: ['MUST', 'The device has a common configuration capability.'],
        'device-feature': ['MUST', 'device_feature shows the word that device_feature_select names.'],
        'driver-feature': ['MUST', 'driver_feature shows what the driver wrote.'],
        generation: ['MUST', 'config_generation differs after the driver read a value that changed.'],
        reset: ['MUST', 'A 0 in device_status resets, and the status then reads 0.'],
        'enable-at-reset': ['MUST', 'queue_enable reads 0 after a reset.'],
        'queue-reset-at-reset': ['MUST', 'queue_reset reads 0 after a reset.'],
        'queue-reset-at-enable': ['MUST', 'queue_reset reads 0 after the queue was enabled.'],
        'queue-reset': ['MUST', 'A 1 written to queue_reset resets the queue.'],
        'queue-reset-pending': ['MUST', 'queue_reset reads 1 while the reset goes on.'],
        'queue-reset-done': ['MUST', 'After the reset queue_reset and queue_enable read 0.'],
        'no-queue': ['MUST', 'queue_size reads 0 for a queue that does not exist.'],
        'queue-size': ['MUST', 'queue_size is 0 or a power of two.'],
        'admin-range': ['MUST', 'Administration queues lie behind all others and within 16 bits.', 'administration'],
      },
    },
    {
      number: '4.1.4.3.2',
      title: 'Driver Requirements: Common configuration structure layout',
      side: 'driver',
      sentences: {
        'read-only': ['MUST NOT', 'The driver writes no read-only field.'],
        'packed-size': ['MUST NOT', 'With a packed ring the driver writes no queue_size of 0.'],
        'queue-size': ['MUST NOT', 'With a split ring the driver writes a power of two to queue_size.'],
        'enable-last': ['MUST', 'The driver configures a queue before it enables it.'],
        reset: ['MUST', 'After a reset the driver waits until device_status reads 0.'],
        'enable-only': ['MUST NOT', 'The driver never writes 0 to queue_enable.'],
        'queue-reset': ['MUST NOT', "The driver takes a queue's reset as done only when queue_reset reads 0."],
        'admin-range': [
          'MUST',
          'The driver configures administration queues within the announced range.',
          'administration',
        ],
      },
    },
    {
      number: '4.1.4.4.1',
      title: 'Device Requirements: Notification capability',
      side: 'device',
      sentences: {
        exists: ['MUST', 'The device has a notification capability.'],
        offset: ['MUST', 'The notification area lies at a multiple of 2.'],
        multiplier: ['MUST', 'notify_off_multiplier is 0 or an even power of two.'],
        length: ['MUST', "The area is at least 2 bytes long and holds every queue's address."],
        'length-by-queue': ['MUST', 'The length is at least queue_notify_off times the multiplier, plus 2.'],
        'data-multiplier': ['MUST', 'With NOTIFICATION_DATA the multiplier is 0 or a power of two from 4.'],
        'data-offset': ['MUST', 'With NOTIFICATION_DATA the area lies at a multiple of 4.'],
        'data-length': [
          'MUST',
          "With NOTIFICATION_DATA the area is at least 4 bytes long and holds every queue's address.",
        ],
        'data-length-by-queue': [
          'MUST',
          'With NOTIFICATION_DATA the length is at least queue_notify_off times the multiplier, plus 4.',
        ],
      },
    },
    {
      number: '4.1.4.5.1',
      title: 'Device Requirements: ISR status capability',
      side: 'device',
      sentences: {
        exists: ['MUST', 'The device has an ISR status capability.'],
        'config-bit': ['MUST', 'The device sets the configuration bit before it notifies.'],
        'queue-bit': ['MUST', 'Without MSI-X the device sets the queue bit before it notifies.'],
        'interrupt-status': ['MUST', 'Without MSI-X the interrupt bit in PCI Status follows the ISR status.'],
        'read-clears': ['MUST', 'A read clears the ISR status.'],
      },
    },
    {
      number: '4.1.4.5.2',
      title: 'Driver Requirements: ISR status capability',
      side: 'driver',
      sentences: {
        'not-with-msix': ['SHOULD NOT', 'With MSI-X the driver does not read the ISR status for queue interrupts.'],
      },
    },
    {
      number: '4.1.4.6',
      title: 'Device-specific configuration',
      side: 'both',
      sentences: {
        exists: ['MUST', 'A device type with a configuration has a device-specific capability.'],
      },
    },
    {
      number: '4.1.4.6.1',
      title: 'Device Requirements: Device-specific configuration',
      side: 'device',
      sentences: {
        offset: ['MUST', 'The device-specific configuration lies at a multiple of 4.'],
      },
    },
    {
      number: '4.1.4.7.1',
      title: 'Device Requirements: Shared memory capability',
      side: 'device',
      sentences: {
        'in-bar': ['MUST', 'A shared memory region lies inside its BAR.'],
        unique: ['MUST', 'Shared memory regions have unique ids.'],
      },
    },
    {
      number: '4.1.4.8',
      title: 'Vendor data capability',
      side: 'device',
      sentences: {
        'no-effects': ['MUST NOT', 'Reads of the capability have no side effects.', 'vendorData'],
      },
    },
    {
      number: '4.1.4.8.1',
      title: 'Device Requirements: Vendor data capability',
      side: 'device',
      sentences: {
        'vendor-id': ['MUST NOT', 'vendor_id is not 0x1AF4.', 'vendorData'],
        size: ['MUST', "The capability's size is a multiple of 4.", 'vendorData'],
        'no-read-effects': ['MUST NOT', 'Reads by the driver have no side effects.', 'vendorData'],
      },
    },
    {
      number: '4.1.4.8.2',
      title: 'Driver Requirements: Vendor data capability',
      side: 'driver',
      sentences: {
        debugging: ['SHOULD NOT', 'The driver uses vendor data for debugging and reports only.'],
        'vendor-id': ['MUST', 'The driver checks vendor_id before it uses vendor data.'],
      },
    },
    {
      number: '4.1.4.9.1',
      title: 'Device Requirements: PCI configuration access capability',
      side: 'device',
      sentences: {
        exists: ['MUST', 'The device has a PCI configuration access capability.'],
        write: ['MUST', 'A write to pci_cfg_data writes the BAR at the window.'],
        read: ['MUST', 'A read of pci_cfg_data reads the BAR at the window.'],
      },
    },
    {
      number: '4.1.4.9.2',
      title: 'Driver Requirements: PCI configuration access capability',
      side: 'driver',
      sentences: {
        aligned: ['MUST, MUST NOT', "The driver's window is aligned to its length."],
        inside: ['MUST NOT', "The driver's window lies inside the structures that capabilities name."],
      },
    },
    {
      number: '4.1.4.10',
      title: 'Legacy Interfaces: A Note on PCI Device Layout',
      side: 'both',
      sentences: {
        'legacy-interface': ['MUST', 'The rules of the legacy interface.', 'legacy', 6],
      },
    },
    {
      number: '4.1.4.11.0.1',
      title: 'Device Requirements: Non-transitional Device With Legacy Driver',
      side: 'both',
      sentences: {
        'legacy-interface': ['SHOULD', 'The rules of the legacy interface.', 'legacy'],
      },
    },
    {
      number: '4.1.5.1.1.1',
      title: 'Legacy Interface: A Note on Device Layout Detection',
      side: 'both',
      sentences: {
        'legacy-interface': ['MUST', 'The rules of the legacy interface.', 'legacy', 3],
        'look-for-capabilities': ['MUST', "A driver looks for the virtio capabilities to tell a device's layout."],
        'none-is-legacy': ['MUST', 'A driver fails gracefully on a device without virtio capabilities.'],
      },
    },
    {
      number: '4.1.5.1.2.1',
      title: 'Device Requirements: MSI-X Vector Configuration',
      side: 'device',
      sentences: {
        vectors: ['SHOULD', 'A device with MSI-X has 2 to 0x800 vectors.'],
        'table-size': ['MUST', 'The MSI-X table size says how many vectors there are.'],
        'enough-vectors': ['SHOULD', 'The device has enough vectors for its events.'],
        'any-vector': ['MUST', 'The device accepts any vector for any event.'],
        unmapping: ['MUST', 'The device allows any event to be unmapped.'],
        'read-back': ['MUST', 'The vector reads back, as NO_VECTOR if there is none.'],
        reset: ['MUST', 'A reset unmaps all events.'],
        'mapping-works': ['SHOULD NOT', 'A mapping fails only where the device cannot do it.'],
        failure: ['MUST', 'A mapping that failed reads back as NO_VECTOR.'],
      },
    },
    {
      number: '4.1.5.1.2.2',
      title: 'Driver Requirements: MSI-X Vector Configuration',
      side: 'driver',
      sentences: {
        'any-table': ['MUST', 'The driver works with any size of the table.'],
        'in-table': ['MUST NOT', 'The driver writes no vector beyond the table.'],
        verified: ['MUST', 'The driver reads back every vector that it writes.'],
      },
    },
    {
      number: '4.1.5.2.1',
      title: 'Driver Requirements: Available Buffer Notifications',
      side: 'driver',
      sentences: {
        width: ['MUST', 'Without NOTIFICATION_DATA the driver writes 16 bits.'],
        'data-width': ['MUST', 'With NOTIFICATION_DATA the driver writes 32 bits.'],
        index: ['MUST', "Without NOTIF_CONFIG_DATA the value is the queue's index."],
        'data-index': ['MUST', "Without NOTIF_CONFIG_DATA vq_index of the notification data is the queue's index."],
        'config-data': ['MUST', 'With NOTIF_CONFIG_DATA the value is queue_notif_config_data.'],
        'config-data-index': ['MUST', 'With both features vq_notif_config_data is queue_notif_config_data.'],
      },
    },
    {
      number: '4.1.5.3.1',
      title: 'Device Requirements: Used Buffer Notifications',
      side: 'device',
      sentences: {
        'no-vector': ['MUST NOT', 'A queue without a vector causes no interrupt.'],
      },
    },
    {
      number: '4.1.5.4.1',
      title: 'Device Requirements: Notification of Device Configuration Changes',
      side: 'device',
      sentences: {
        'no-vector': ['MUST NOT', 'Configuration changes without a vector cause no interrupt.'],
      },
    },
    {
      number: '4.1.5.4.2',
      title: 'Driver Requirements: Notification of Device Configuration Changes',
      side: 'driver',
      sentences: {
        'shared-interrupt': ['MUST', 'The driver handles one interrupt for queues and configuration changes.'],
      },
    },
  ],
}
