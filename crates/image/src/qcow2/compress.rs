//! Compressed clusters (Compressed Clusters Descriptor): raw deflate or Zstandard, each cluster by itself.

use std::io;
use std::sync::Arc;

use libdeflater::{CompressionLvl, Compressor as Deflate, Decompressor as Inflate};
use parking_lot::Mutex;
use zstd::bulk::{Compressor as ZstdCompressor, Decompressor as ZstdDecompressor};
use zstd::zstd_safe;

use super::header::Compression;
use super::layout::Layout;
use super::read::compressed_bytes;
use crate::storage::Storage;
use crate::{Error, Operation};

/// Of libdeflate's levels 1 to 12. With its 32-KiB window it is smaller than zlib's default with QEMU's 4-KiB one.
const DEFLATE_LEVEL: i32 = 2;
/// Zstandard's own default, which QEMU takes, too.
const ZSTD_LEVEL: i32 = 3;

/// Compresses clusters. Has tables of its own: one for each thread.
pub enum Compressor {
    /// Raw deflate.
    Zlib(Box<Deflate>),
    /// Zstandard.
    Zstd(ZstdCompressor<'static>),
}

impl Compressor {
    /// One of a kind.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::Zlib => {
                let level = CompressionLvl::new(DEFLATE_LEVEL).unwrap_or_default();
                Compressor::Zlib(Box::new(Deflate::new(level)))
            }
            Compression::Zstd => Compressor::Zstd(ZstdCompressor::new(ZSTD_LEVEL)?),
        })
    }

    /// Compresses into `out` and returns the length, or nothing when it doesn't fit: then it isn't worth it.
    pub fn compress(&mut self, cluster: &[u8], out: &mut [u8]) -> Option<usize> {
        match self {
            Compressor::Zlib(deflate) => deflate.deflate_compress(cluster, out).ok(),
            Compressor::Zstd(zstd) => zstd.compress_to_buffer(cluster, out).ok(),
        }
    }
}

enum Decompressor {
    Zlib(Inflate),
    Zstd(ZstdDecompressor<'static>),
}

impl Decompressor {
    fn new(compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::Zlib => Decompressor::Zlib(Inflate::new()),
            Compression::Zstd => Decompressor::Zstd(ZstdDecompressor::new()?),
        })
    }

    // `bytes` goes on behind the cluster's data up to the end of a sector.
    fn decompress(&mut self, bytes: &[u8], out: &mut [u8]) -> Result<usize, String> {
        match self {
            Decompressor::Zlib(inflate) => inflate.deflate_decompress(bytes, out).map_err(|error| error.to_string()),
            Decompressor::Zstd(zstd) => {
                let len = zstd_safe::find_frame_compressed_size(bytes)
                    .map_err(|code| zstd_safe::get_error_name(code).to_owned())?;
                let frame = bytes.get(..len).unwrap_or(bytes);
                zstd.decompress_to_buffer(frame, out).map_err(|error| error.to_string())
            }
        }
    }
}

/// Decompresses, and remembers the cluster it met last: readers come by sectors.
pub struct Codec {
    compression: Compression,
    idle: Mutex<Vec<Decompressor>>,
    last: Mutex<Option<(u64, Arc<[u8]>)>>,
}

impl Codec {
    /// For images that are compressed so.
    pub fn new(compression: Compression) -> Self {
        Self { compression, idle: Mutex::new(Vec::new()), last: Mutex::new(None) }
    }

    /// How it is compressed.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The cluster whose compressed data are `len` bytes at `host`.
    ///
    /// # Errors
    /// When they can't be read, or are not a cluster's.
    pub fn cluster(&self, storage: &dyn Storage, layout: &Layout, host: u64, len: u64) -> Result<Arc<[u8]>, Error> {
        if let Some((at, cluster)) = self.last.lock().as_ref()
            && *at == host
        {
            return Ok(cluster.clone());
        }
        let failed =
            |source| Error::Io { name: storage.name().into(), operation: Operation::Read, offset: host, source };
        let bytes = compressed_bytes(storage, host, len).map_err(failed)?;
        let mut cluster = vec![0; layout.cluster() as usize];
        let idle = self.idle.lock().pop();
        let mut decompressor = idle.map_or_else(|| Decompressor::new(self.compression), Ok).map_err(failed)?;
        let outcome = decompressor.decompress(&bytes, &mut cluster);
        self.idle.lock().push(decompressor);
        let what = match outcome {
            Ok(len) if len == cluster.len() => {
                let cluster: Arc<[u8]> = cluster.into();
                *self.last.lock() = Some((host, cluster.clone()));
                return Ok(cluster);
            }
            Ok(len) => format!("its compressed cluster at {host:#x} has {len} bytes of {}", cluster.len()),
            Err(why) => format!("its compressed cluster at {host:#x} can't be decompressed: {why}"),
        };
        Err(Error::Damaged { name: storage.name().into(), what })
    }

    /// Forgets the cluster it met last: its place may get another's data.
    pub fn forget(&self) {
        *self.last.lock() = None;
    }
}
