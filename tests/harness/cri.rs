//! The CRI client calls that belong to no pod.

use std::time::Instant;

use tonic::transport::Channel;

use crate::api::cri::image_service_client::ImageServiceClient;
use crate::api::cri::runtime_service_client::RuntimeServiceClient;
use crate::api::cri::{ImageSpec, ImageStatusRequest, ListContainerStatsRequest, StatusRequest};
use crate::{Node, Result, moment, patience};

impl Node {
    /// The CRI's runtime service.
    pub async fn cri(&self) -> Result<RuntimeServiceClient<Channel>> {
        Ok(RuntimeServiceClient::new(self.channel().await?))
    }

    /// The conditions that are not true yet, as text; empty when a kubelet would call the node ready.
    pub(crate) async fn not_ready(&self) -> Result<String> {
        let status = self.cri().await?.status(StatusRequest {}).await?.into_inner().status.unwrap_or_default();
        // NetworkReady too: a sandbox made before the CNI configuration was read fails.
        let waiting = status.conditions.iter().filter(|it| !it.status && it.r#type.ends_with("Ready"));
        Ok(waiting.map(|it| format!("{}: {} {}; ", it.r#type, it.reason, it.message)).collect())
    }

    /// Waits until CRI knows an image that containerd imported: it learns of it from an event.
    pub(crate) async fn wait_for_image(&self, name: &str) -> Result<()> {
        let deadline = Instant::now() + patience(10);
        let mut client = ImageServiceClient::new(self.channel().await?);
        loop {
            let image = Some(ImageSpec { image: name.to_owned() });
            // An error here is CRI still starting.
            let known = client.image_status(ImageStatusRequest { image }).await;
            match known {
                Ok(status) if status.get_ref().image.is_some() => return Ok(()),
                _ if Instant::now() < deadline => moment().await,
                Ok(_) => return Err(format!("CRI does not know image {name}").into()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The number of containers that `ListContainerStats` tells the memory of.
    pub async fn list_stats(&self) -> Result<usize> {
        let answer = self.cri().await?.list_container_stats(ListContainerStatsRequest {}).await?.into_inner();
        Ok(answer.stats.iter().filter(|stats| stats.memory.is_some()).count())
    }
}
