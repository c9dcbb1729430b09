/** Running totals. Bytes count frames, without the virtio header. */
export interface NetDriverCounters {
  framesSent: number
  bytesSent: number
  framesReceived: number
  bytesReceived: number
  /**
   * Received buffers that held no valid frame: shorter than the header, an offload nobody agreed on, nothing delivered.
   */
  malformed: number
  /**
   * Receive buffers that could not be posted at the last try. All of them: the pool has no room for any, and nothing
   * will be received.
   */
  unposted: number
}
