//! `PeerService`: another replica asks for a data plane that is connected here.

use super::Api;
use crate::error::{Error, Kind};
use crate::orders;
use shunt_proto::pb;
use shunt_proto::wire::Invalid;
use tonic::{Request, Response, Status, async_trait};

#[async_trait]
impl pb::peer_service_server::PeerService for Api {
    async fn ask(&self, request: Request<pb::AskRequest>) -> Result<Response<pb::Answer>, Status> {
        self.answer("Ask", async {
            let pb::AskRequest { data_plane, order } = request.into_inner();
            let order = order.and_then(|order| order.order);
            let ask = orders::ask_of(order.ok_or_else(|| Invalid::new("order", "is missing"))?);
            let answer = self.planes.ask(&data_plane, ask);
            let answer = answer.ok_or_else(|| Error::NotFound(Kind::DataPlane, data_plane.clone()))?;
            // Who asks knows how long it waits.
            Ok(orders::answered(answer.await.map_err(|_| Error::Unanswered(data_plane))?))
        })
        .await
    }
}
