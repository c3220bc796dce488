//! AMD GPUs, as the kernel shows them in the files of its driver (amdgpu, KFD). ROCm itself
//! finds them there; no library is needed.
//!
//! In a container, all GPUs of the host are in these files. The ones that it may use are those
//! whose files can be read (the kernel checks the container's device permissions), and whose
//! device exists and can be opened.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use nix::unistd::{AccessFlags, access};

use super::allotted::{self, variable};
use super::device::Devices;
use super::host::root;
use super::{Gpu, Gpus, Vendor};

const MIB: u64 = 1 << 20;

/// The GPUs of the AMD driver.
struct Amd {
    root: PathBuf,
}

/// A GPU as the kernel shows it.
struct Node {
    /// The folder with its files.
    folder: PathBuf,
    /// The driver's name of the GPU in the files of processes.
    id: u64,
    properties: HashMap<String, u64>,
}

/// The GPUs of the AMD driver.
///
/// # Errors
/// If there is no driver.
pub(super) fn of_this_host() -> Result<impl Gpus> {
    let amd = Amd { root: root() };
    let nodes = amd.nodes_folder();
    fs::read_dir(&nodes).with_context(|| nodes.display().to_string())?;
    Ok(amd)
}

impl Gpus for Amd {
    fn allotted(&self) -> Result<(Devices, Vec<String>)> {
        let (gpus, _): (Vec<Gpu>, Vec<Node>) = self.gpus()?.into_iter().unzip();
        ensure!(
            !gpus.is_empty(),
            "the AMD driver shows no GPU that this user may use; \
             is the user in the group of /dev/dri/render*?"
        );
        let mut devices = Devices::of(gpus);
        let warnings = allotted::amd(&mut devices, &variable)?;
        Ok((devices, warnings))
    }

    fn check(&self, gpu: &Gpu) -> Result<()> {
        self.node(gpu).map(drop)
    }

    fn free_mib(&self, gpu: &Gpu) -> Result<u64> {
        let node = self.node(gpu)?;
        let folder = self.root.join("sys/bus/pci/devices").join(node.pci_address());
        let total: u64 = read(&folder.join("mem_info_vram_total"))?;
        let used: u64 = read(&folder.join("mem_info_vram_used"))?;
        // A part of a GPU has less memory than the GPU.
        Ok((total.saturating_sub(used) / MIB).min(node.memory_mib()?))
    }

    fn memory_mib(&self, gpu: &Gpu) -> Result<u64> {
        self.node(gpu)?.memory_mib()
    }

    fn processes(&self, gpu: &Gpu) -> Result<Vec<u32>> {
        let memory = format!("vram_{}", self.node(gpu)?.id);
        let uses_it = |folder: &PathBuf| {
            read::<u64>(&folder.join(&memory)).is_ok_and(|bytes| bytes > 0)
        };
        let processes = numbered(&self.root.join("sys/class/kfd/kfd/proc"))?;
        Ok(processes
            .into_iter()
            .filter(|(_, folder)| uses_it(folder))
            .map(|(pid, _)| pid)
            .collect())
    }
}

impl Amd {
    fn nodes_folder(&self) -> PathBuf {
        self.root.join("sys/class/kfd/kfd/topology/nodes")
    }

    fn node(&self, gpu: &Gpu) -> Result<Node> {
        // The index changes when another GPU fails.
        let is_same = |(other, _): &(Gpu, Node)| match &gpu.uuid {
            Some(_) => other.uuid == gpu.uuid,
            None => other == gpu,
        };
        let found = self.gpus()?.into_iter().find(is_same);
        let (_, node) = found.context("the driver no longer shows the GPU")?;
        Ok(node)
    }

    /// The GPUs that this process can open, in PCI bus order. ROCm counts them in the order of
    /// the nodes.
    fn gpus(&self) -> Result<Vec<(Gpu, Node)>> {
        let nodes: Vec<Node> = numbered(&self.nodes_folder())?
            .into_iter()
            .filter_map(|(_, folder)| Node::of(folder))
            .filter(|node| self.can_open(node))
            .collect();
        let uuids: Vec<Option<String>> = nodes.iter().map(Node::uuid).collect();
        // Older kernels give all parts of a partitioned GPU the same one.
        let is_unique = |uuid: &&Option<String>| {
            uuids.iter().filter(|other| other == uuid).count() == 1
        };
        let mut gpus: Vec<(Gpu, Node)> = Vec::new();
        for ((index, node), uuid) in (0..).zip(nodes).zip(&uuids) {
            let uuid = Some(uuid).filter(is_unique).cloned().flatten();
            gpus.push((Gpu { vendor: Vendor::Amd, index, instance: None, uuid }, node));
        }
        gpus.sort_by_key(|(gpu, node)| (node.bus(), gpu.index));
        Ok(gpus)
    }

    /// As ROCm does, which skips a GPU that it cannot open.
    fn can_open(&self, node: &Node) -> bool {
        let devices = self.root.join("dev/dri");
        let device =
            devices.join(format!("renderD{}", node.property("drm_render_minor")));
        access(&device, AccessFlags::R_OK | AccessFlags::W_OK).is_ok()
    }
}

impl Node {
    /// None for a CPU, and for a GPU that this process may not use.
    fn of(folder: PathBuf) -> Option<Self> {
        let id = read(&folder.join("gpu_id")).ok().filter(|id| *id != 0)?;
        let properties = properties(&folder.join("properties")).ok()?;
        let node = Self { folder, id, properties };
        (node.property("simd_count") > 0).then_some(node)
    }

    fn property(&self, name: &str) -> u64 {
        self.properties.get(name).copied().unwrap_or_default()
    }

    /// As `rocminfo` prints it. None: the GPU is too old to have one.
    fn uuid(&self) -> Option<String> {
        let id = self.property("unique_id");
        (id != 0).then(|| format!("GPU-{id:016x}"))
    }

    /// The PCI domain, and the bus, device and function.
    fn bus(&self) -> (u64, u64) {
        // The upper bits number the parts of a partitioned GPU.
        (self.property("domain"), self.property("location_id") & 0xffff)
    }

    fn pci_address(&self) -> String {
        let (domain, location) = self.bus();
        let (bus, device, function) = (location >> 8, location >> 3 & 0x1f, location & 7);
        format!("{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }

    /// The memory on the GPU.
    fn memory_mib(&self) -> Result<u64> {
        /// Memory that the CPU can access, and memory that it cannot.
        const ON_GPU: [u64; 2] = [1, 2];
        let banks = numbered(&self.folder.join("mem_banks"))?;
        let banks = banks
            .iter()
            .filter_map(|(_, bank)| properties(&bank.join("properties")).ok());
        let on_gpu = banks.filter(|bank| {
            bank.get("heap_type").is_some_and(|heap| ON_GPU.contains(heap))
        });
        let bytes: u64 =
            on_gpu.filter_map(|bank| bank.get("size_in_bytes").copied()).sum();
        ensure!(bytes > 0, "the AMD driver does not report the memory of the GPU");
        Ok(bytes / MIB)
    }
}

/// The subfolders whose names are numbers, in order; none if the folder does not exist.
fn numbered(folder: &Path) -> Result<Vec<(u32, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| folder.display().to_string())?,
    };
    let number = |entry: fs::DirEntry| {
        Some((entry.file_name().to_str()?.parse().ok()?, entry.path()))
    };
    let mut all: Vec<(u32, PathBuf)> = entries.flatten().filter_map(number).collect();
    all.sort();
    Ok(all)
}

/// The lines `name value` of a file.
fn properties(file: &Path) -> Result<HashMap<String, u64>> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let line = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    Ok(text.lines().filter_map(line).collect())
}

/// The number in a file.
fn read<T: FromStr>(file: &Path) -> Result<T> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    text.trim().parse().ok().with_context(|| format!("{}: {text:?}", file.display()))
}
