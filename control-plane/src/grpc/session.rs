//! `SessionService`.

use super::Api;
use super::page::Page;
use crate::asking::{Filter, Sessions};
use crate::error::{Error, Kind};
use shunt_proto::cn::check_name;
use shunt_proto::pb::{self, killed::Outcome};
use shunt_proto::wire::Invalid;
use tonic::{Request, Response, Status, async_trait};

#[async_trait]
impl pb::session_service_server::SessionService for Api {
    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<pb::ListSessionsResponse>, Status> {
        self.answer("ListSessions", async {
            let pb::ListSessionsRequest { page_size, page_token, cn, tenant } = request.into_inner();
            let page = Page::new(&format!("sessions of {cn} and {tenant}"), page_size, &page_token)?;
            let after = match page.after.as_str() {
                "" => 0,
                id => id.parse().map_err(|_| Invalid::new("page_token", "was not given out by this list"))?,
            };
            self.view()?;
            let found = self.asking.list(&Filter { cn, tenant }, after, page.size).await;
            let Sessions { sessions, more, unanswered } = found;
            let next_page_token = match sessions.last() {
                Some(last) if more => page.token(&last.id.to_string()),
                _ => String::new(),
            };
            Ok(pb::ListSessionsResponse { sessions, next_page_token, unanswered })
        })
        .await
    }

    async fn get_session(
        &self,
        request: Request<pb::GetSessionRequest>,
    ) -> Result<Response<pb::Session>, Status> {
        self.answer("GetSession", async {
            self.view()?;
            self.asking.find(request.into_inner().id).await
        })
        .await
    }

    async fn kill_session(
        &self,
        request: Request<pb::KillSessionRequest>,
    ) -> Result<Response<pb::KillSessionResponse>, Status> {
        self.answer("KillSession", async {
            self.view()?;
            let pb::KillSessionRequest { id, query_only } = request.into_inner();
            // No asker: an operator, who may.
            let order = pb::order::KillOrder { session_id: id, query_only, asker: None };
            match self.asking.kill(order).await {
                (Outcome::Done, _) => Ok(pb::KillSessionResponse {}),
                (Outcome::Unknown, _) => Err(Error::NotFound(Kind::Session, id.to_string())),
                (Outcome::Denied | Outcome::Unreachable | Outcome::Unspecified, plane) => {
                    Err(Error::Unanswered(plane))
                }
            }
        })
        .await
    }

    async fn move_session(
        &self,
        request: Request<pb::MoveSessionRequest>,
    ) -> Result<Response<pb::Moved>, Status> {
        self.answer("MoveSession", async {
            self.view()?;
            let pb::MoveSessionRequest { id, to } = request.into_inner();
            if !to.is_empty() {
                check_name(&to).map_err(|error| Invalid::new("to", error.to_string()))?;
            }
            self.asking.move_session(pb::order::MoveOrder { session_id: id, to }).await
        })
        .await
    }
    async fn rebalance(
        &self,
        request: Request<pb::RebalanceRequest>,
    ) -> Result<Response<pb::RebalancePlan>, Status> {
        self.answer("Rebalance", async {
            self.view()?;
            let dry_run = request.into_inner().dry_run;
            Ok(self.asking.rebalance(pb::order::Rebalance { dry_run }).await)
        })
        .await
    }
}
