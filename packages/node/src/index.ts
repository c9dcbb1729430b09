/**
 * What needs Node: stores in files, memory and sockets that are shared with other processes, and those processes.
 *
 * @packageDocumentation
 */
export { FileBlockStore, type FileBlockStoreOptions } from './file-block-store.ts'
export { type Peer, type PeerExit, type PeerOptions, spawnPeer } from './processes/peer.ts'
export { NODE_CODES, NodeError } from './system/errors.ts'
export { EventFd } from './system/event-fd.ts'
export { waitReadable } from './system/poll.ts'
export { SharedMemory } from './system/shared-memory.ts'
export { type Received, type UnixListener, UnixSocket } from './system/unix-socket.ts'
export { serveWatched, type Watch, watchReadable } from './system/watch.ts'
