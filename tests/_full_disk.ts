/** A disk that is full after some bytes. @module */

/** Lets files take so many bytes in all, and no more. */
export async function withFullDisk<T>(room: number, use: () => Promise<T> | T): Promise<T> {
  const write = Deno.FsFile.prototype.writeSync;
  Deno.FsFile.prototype.writeSync = function (bytes) {
    if (room === 0) throw new Error("No space left on device (os error 28)");
    const count = write.call(this, bytes.subarray(0, room));
    room -= count;
    return count;
  };
  try {
    return await use();
  } finally {
    Deno.FsFile.prototype.writeSync = write;
  }
}
