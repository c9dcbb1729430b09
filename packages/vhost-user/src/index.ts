/**
 * vhost-user: a driver's way to devices that other processes serve.
 *
 * @packageDocumentation
 */
export { VHOST_CODES, VhostUserError } from './protocol/errors.ts'
