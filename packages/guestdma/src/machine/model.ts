import { BlkDevice, NetDevice, type VirtioDevice } from '@guestdma/devices'
import type { DmaScheme } from '@guestdma/dma'
import { attempt, type BusPort } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_SWIOTLB } from '@guestdma/spec'
import type { DeviceConfig, RemoteConfig } from '../config/config.ts'
import { kindOf } from '../config/driver-kinds.ts'
import { MachineError } from '../config/errors.ts'
import type { MachineEvents } from '../config/events.ts'
import { type Connection, connect } from '../platform/connection.ts'
import { ModelPlatform } from '../platform/model.ts'
import type { PlatformShared } from '../platform/shared.ts'

/** A device whose model runs in this machine. */
export interface PlacedModel {
  readonly platform: ModelPlatform
  readonly port: BusPort
  readonly model: VirtioDevice
  readonly connection: Connection
}

export interface ModelPlace {
  readonly events: MachineEvents
  readonly common: PlatformShared
  readonly scheme: DmaScheme
  readonly transport: 'mmio' | 'pci'
}

/** Installs the scheme, makes the model over the port, and connects it. Where that fails, the platform is released. */
export function placeModel(
  config: Exclude<DeviceConfig, RemoteConfig>,
  { events, common, scheme, transport }: ModelPlace,
  interrupt: () => void,
): PlacedModel {
  const { name } = config
  let connection: Connection | null = null
  const platform: ModelPlatform = new ModelPlatform(
    name,
    transport,
    common,
    (fault) => events.tell('fault', { device: name, fault }),
    { level: () => {}, message: (_address, data) => connection?.message(data) },
  )
  try {
    const port = platform.enforce(scheme.install(platform))
    const model = makeModel(config, port, platform)
    const { name: kind, deviceId } = kindOf(config.type)
    if (model.deviceId !== deviceId) {
      const message = `the model has device ID ${model.deviceId}; type '${kind}' needs ${deviceId}`
      throw new MachineError('MACHINE_DEVICE_TYPE', name, message, { deviceId: model.deviceId })
    }
    const { onWork } = model
    const { wake } = common
    model.onWork =
      onWork === null
        ? wake
        : () => {
            wake()
            onWork()
          }
    model.faults.observer = (fault) => events.tell('fault', { device: name, fault })
    connection = connect(model, platform, common.bars, interrupt)
    return { platform, port, model, connection }
  } catch (error) {
    attempt([], () => platform.release())
    throw error
  }
}

function makeModel(
  config: Exclude<DeviceConfig, RemoteConfig>,
  port: BusPort,
  { swiotlb }: ModelPlatform,
): VirtioDevice {
  const { make } = config
  if (make !== undefined) return make.call(config, port)
  if (config.type !== 'net' && config.type !== 'blk')
    throw new MachineError('MACHINE_CONFIG', config.name, `a device of type '${config.type.name}' needs make`)
  const bit = swiotlb === undefined || swiotlb.bit === 'absent' ? [] : [VIRTIO_F_SWIOTLB]
  // Confined devices say so: without ACCESS_PLATFORM a driver may pass only physical addresses (virtio 1.4 §6.1).
  const confined = { accessPlatform: 'offered' as const, name: config.name, port }
  const { device } = config
  const features = {
    offer: [...(device.offer ?? []), ...bit],
    requires: (device.requires ?? FeatureSet.empty).or(FeatureSet.of(...(swiotlb?.bit === 'required' ? bit : []))),
  }
  return config.type === 'net'
    ? new NetDevice({ ...confined, ...config.device, ...features })
    : new BlkDevice({ ...confined, ...config.device, ...features })
}
