/**
 * vhost-user: a driver's way to devices that other processes serve, and device models served to other processes.
 *
 * @packageDocumentation
 */
export { IotlbPort } from './back-end/iotlb-port.ts'
export type { MappedWindow } from './back-end/mapped-table.ts'
export { VhostUserServer, type VhostUserServerOptions } from './back-end/vhost-user-server.ts'
export { DPDK_IOTLB, type IotlbCounters, IotlbDomain, type IotlbDomainOptions } from './front-end/iotlb-domain.ts'
export { type IotlbProviderOptions, iotlbProvider, iotlbScheme } from './front-end/iotlb-provider.ts'
export type { SharedWindow } from './front-end/memory-table.ts'
export type { VhostUserOptions } from './front-end/options.ts'
export { VhostUserTransport } from './front-end/vhost-user-transport.ts'
export { VHOST_CODES, VhostUserError } from './protocol/errors.ts'
