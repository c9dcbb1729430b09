import type { Chapter } from './sentence.ts'

export const basics: Chapter = {
  title: 'Basic facilities',
  sections: [
    {
      number: '2.1.1',
      title: 'Driver Requirements: Device Status Field',
      side: 'driver',
      sentences: {
        steps: ['MUST', 'The driver sets a status bit when it has reached the step that the bit stands for.'],
        'no-clearing': ['MUST NOT', 'The driver clears no status bit; only a reset does.'],
        'failed-then-reset': ['MUST', 'After FAILED the driver resets the device before it tries again.'],
        'needs-reset': ['SHOULD NOT', 'The driver does not count on completions once DEVICE_NEEDS_RESET is set.'],
      },
    },
    {
      number: '2.1.2',
      title: 'Device Requirements: Device Status Field',
      side: 'device',
      sentences: {
        'idle-before-driver-ok': [
          'MUST NOT',
          'The device uses no buffer and sends no used buffer notification before DRIVER_OK.',
        ],
        'needs-reset': ['SHOULD', 'The device sets DEVICE_NEEDS_RESET when it needs a reset.'],
        'needs-reset-notification': [
          'MUST',
          'With DRIVER_OK set, DEVICE_NEEDS_RESET comes with a configuration change notification.',
        ],
      },
    },
    {
      number: '2.2.1',
      title: 'Driver Requirements: Feature Bits',
      side: 'driver',
      sentences: {
        'offered-and-met': [
          'MUST NOT',
          'The driver accepts only features that are offered and whose required features it accepts too.',
        ],
        validated: ['MUST', 'The driver checks the offered features before it accepts any.'],
        'unknown-ignored': [
          'MUST, MUST NOT',
          'The driver ignores bits that are reserved, unknown, or for another transport or device type.',
        ],
        'missing-feature': [
          'MUST, SHOULD',
          'If the driver misses a feature, it works without it, or sets FAILED and stops.',
        ],
        'unknown-no-failure': ['MUST NOT', 'An unknown offered bit is no reason for the driver to fail.'],
      },
    },
    {
      number: '2.2.2',
      title: 'Device Requirements: Feature Bits',
      side: 'device',
      sentences: {
        'needs-offered': ['MUST NOT', 'The device offers a feature only together with the features that it requires.'],
        'valid-subsets': [
          'MUST, SHOULD',
          'The device accepts any valid subset of its features and else leaves FEATURES_OK clear.',
        ],
        'only-supported': ['MUST NOT', 'The device offers no feature that it would not support.'],
        'same-after-reset': ['SHOULD NOT', 'The device accepts the same features again after a reset.'],
      },
    },
    {
      number: '2.2.3',
      title: 'Legacy Interface: A Note on Feature',
      side: 'both',
      sentences: {
        'legacy-interface': ['MUST', 'The rules of the legacy interface.', 'legacy', 3],
      },
    },
    {
      number: '2.4.1',
      title: 'Device Requirements: Device Reset',
      side: 'device',
      sentences: {
        'status-zero': ['MUST', 'After a reset the device shows a status of 0.'],
        'quiet-after-reset': ['MUST NOT', 'After a reset the device sends no notification and touches no queue.'],
      },
    },
    {
      number: '2.4.2',
      title: 'Driver Requirements: Device Reset',
      side: 'driver',
      sentences: {
        'wait-for-zero': ['SHOULD', 'The driver takes a reset as done only when the status reads 0.'],
      },
    },
    {
      number: '2.5.1',
      title: 'Driver Requirements: Device Configuration Space',
      side: 'driver',
      sentences: {
        generations: [
          'MUST NOT, SHOULD',
          'The driver reads fields wider than 32 bits, and groups of fields, between two equal generations.',
        ],
        'optional-fields': ['MUST', 'The driver reads an optional field only if its feature is offered.'],
        'no-size-limit': ['MUST NOT', 'The driver accepts structures and a configuration space larger than it knows.'],
        'large-enough': ['SHOULD', 'The driver checks only that the configuration space holds what it uses.'],
      },
    },
    {
      number: '2.5.2',
      title: 'Device Requirements: Device Configuration Space',
      side: 'device',
      sentences: {
        'readable-early': ['MUST', 'The device lets its configuration be read before FEATURES_OK.'],
      },
    },
    {
      number: '2.5.4',
      title: 'Legacy Interface: Device Configuration Space',
      side: 'both',
      sentences: {
        'legacy-interface': ['SHOULD', 'The rules of the legacy interface.', 'legacy'],
      },
    },
    {
      number: '2.6.1.1.1',
      title: 'Device Requirements: Virtqueue Reset',
      side: 'device',
      sentences: {
        stopped: ['MUST NOT', 'A queue that was reset executes no requests and sends no notifications.'],
        defaults: ['MUST', 'A queue that was reset is back at its defaults.'],
      },
    },
    {
      number: '2.6.1.1.2',
      title: 'Driver Requirements: Virtqueue Reset',
      side: 'driver',
      sentences: {
        verified: ['MUST', 'The driver verifies that the reset of a queue is complete.'],
      },
    },
    {
      number: '2.6.1.2.1',
      title: 'Device Requirements: Virtqueue Re-enable',
      side: 'device',
      sentences: {
        'new-configuration': [
          'MUST',
          'The device observes a changed queue configuration when the queue is enabled again.',
        ],
      },
    },
    {
      number: '2.6.1.2.2',
      title: 'Driver Requirements: Virtqueue Re-enable',
      side: 'driver',
      sentences: {
        'whole-configuration': ['MUST', 'To enable a queue again, the driver configures all of it as at first.'],
      },
    },
    {
      number: '2.10.2',
      title: 'Device Requirements: Shared Memory Regions',
      side: 'both',
      sentences: {
        'no-control': [
          'MUST NOT',
          'Shared memory regions neither control the device nor carry streams of data.',
          'noSharedMemory',
        ],
      },
    },
    {
      number: '2.11',
      title: 'Exporting Objects',
      side: 'both',
      sentences: {
        uuids: ['RECOMMENDED', 'Devices generate version 4 UUIDs for the objects that they export.', 'noExports'],
      },
    },
    {
      number: '3.1.1',
      title: 'Driver Requirements: Device Initialization',
      side: 'driver',
      sentences: {
        order: ['MUST', 'The driver initialises a device in the given order.'],
        'no-early-config-write': ['MUST NOT', 'The driver writes no configuration field before FEATURES_OK.'],
        'features-final': ['MUST NOT', 'The driver accepts no new feature after FEATURES_OK.'],
        failed: ['SHOULD', 'The driver sets FAILED when it gives a device up.'],
        'end-of-initialisation': ['MUST NOT', 'The driver does not go on with a device that it gave up.'],
        'no-early-doorbell': ['MUST NOT', 'The driver sends no available buffer notification before DRIVER_OK.'],
      },
    },
    {
      number: '3.1.2',
      title: 'Legacy Interface: Device Initialization',
      side: 'both',
      sentences: {
        'legacy-interface': ['MUST', 'The rules of the legacy interface.', 'legacy', 3],
      },
    },
    {
      number: '3.3.1',
      title: 'Driver Requirements: Device Cleanup',
      side: 'driver',
      sentences: {
        'entries-stay': ['MUST NOT', 'The driver does not alter ring entries of exposed buffers.'],
        'stop-first': ['MUST', 'The driver takes exposed buffers back only after their queue was stopped.'],
      },
    },
    {
      number: '3.4.1',
      title: 'Driver Requirements: Device Suspend',
      side: 'driver',
      sentences: {
        'suspend-if-agreed': [
          'SHOULD NOT',
          'The driver sets SUSPEND only after DRIVER_OK and with VIRTIO_F_SUSPEND agreed.',
        ],
        verified: ['MUST', 'The driver reads the status again to see that the device has suspended.'],
        'no-buffers': ['MUST NOT', 'The driver offers no more buffers to a suspended device.'],
        'no-doorbells': ['MUST NOT', 'The driver sends no notification to a suspended device.'],
        'no-config': [
          'MUST NOT',
          "The driver changes nothing in a suspended device's configuration space but its status.",
        ],
        'wait-for-resume': ['MUST', 'After setting DRIVER_OK the driver waits until the device has resumed.'],
      },
    },
    {
      number: '3.4.2',
      title: 'Device Requirements: Device Suspend',
      side: 'device',
      sentences: {
        'early-suspend-ignored': [
          'MUST',
          'The device ignores a write of SUSPEND before initialisation is complete or without the feature.',
        ],
        'config-ignored': [
          'SHOULD',
          'A suspended device ignores writes into its configuration space, except of its status.',
        ],
        'at-rest': [
          'MUST NOT',
          'A suspended device sends no notification, and touches no queue and no configuration field.',
        ],
        'no-config-notification': ['MUST NOT', 'A suspended device sends no configuration change notification.'],
        'late-config-notification': [
          'MUST',
          'A device that resumes notifies of the configuration changes that came meanwhile.',
        ],
        'suspend-or-reset': ['MUST', 'On SUSPEND the device suspends, or sets DEVICE_NEEDS_RESET.'],
        'resume-or-reset': ['MUST', 'On DRIVER_OK the device resumes, or sets DEVICE_NEEDS_RESET.'],
        'before-suspending': [
          'SHOULD',
          'The device finishes or stops its work on buffers before it shows that it has suspended.',
        ],
      },
    },
    {
      number: '6.1',
      title: 'Driver Requirements: Reserved Feature Bits',
      side: 'driver',
      sentences: {
        'version-1': ['MUST', 'The driver accepts VIRTIO_F_VERSION_1 where it is offered.'],
        'access-platform': [
          'MUST, SHOULD',
          'The driver accepts ACCESS_PLATFORM where offered, and then uses the IOMMU or switches it off.',
        ],
        physical: ['MUST', 'Without ACCESS_PLATFORM the driver gives only physical addresses to the device.'],
        'ring-packed': ['SHOULD', 'The driver accepts VIRTIO_F_RING_PACKED where it is offered.'],
        'order-platform': ['SHOULD', 'The driver accepts VIRTIO_F_ORDER_PLATFORM where it is offered.'],
        'order-platform-barriers': [
          'MUST',
          'With ORDER_PLATFORM the driver uses barriers that are strong enough for hardware.',
        ],
        'sr-iov-capability': [
          'MUST NOT',
          'The driver accepts VIRTIO_F_SR_IOV only from a PCI device with an SR-IOV capability.',
          'srIov',
        ],
        'sr-iov-first': ['MUST', 'The driver negotiates VIRTIO_F_SR_IOV before it enables virtual functions.', 'srIov'],
        'notif-config-data': ['SHOULD', 'The driver accepts VIRTIO_F_NOTIF_CONFIG_DATA where it is offered.'],
      },
    },
    {
      number: '6.2',
      title: 'Device Requirements: Reserved Feature Bits',
      side: 'device',
      sentences: {
        'version-1': ['MUST', 'The device offers VIRTIO_F_VERSION_1.'],
        'access-platform': [
          'SHOULD',
          'The device offers ACCESS_PLATFORM where its access to memory is translated or limited.',
        ],
        'in-order': ['MUST', 'With IN_ORDER the device uses buffers in the order in which they became available.'],
        'add-in-card': ['RECOMMENDED', 'An add-in card offers ACCESS_PLATFORM and ORDER_PLATFORM.', 'addInCard'],
        'sr-iov': ['MUST NOT, SHOULD', 'The device offers SR_IOV only on PCI with an SR-IOV capability.'],
      },
    },
    {
      number: '6.3',
      title: 'Legacy Interface: Reserved Feature Bits',
      side: 'both',
      sentences: {
        'legacy-interface': ['MUST, SHOULD NOT', 'The rules of the legacy interface.', 'legacy', 3],
      },
    },
  ],
}
