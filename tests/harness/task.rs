//! Containers over containerd's own API: any OCI spec, any stdio, no CRI in between.
