//! `ClusterService`.

use super::Api;
use super::mask::{Field, fields};
use super::page::Page;
use super::shown::Show;
use crate::apply::{self, Change};
use crate::blocks;
use crate::cluster::View;
use crate::error::Error;
use crate::explain::{Candidate, Explanation, Known, Login, explain};
use crate::follow::Standing;
use crate::intent;
use shunt_proto::cn::{CnGroup, Health};
use shunt_proto::intent::{GroupIntent, Intent};
use shunt_proto::pb;
use shunt_proto::snapshot::Object;
use shunt_proto::tenant::{DEFAULT_TENANT, Tenant};
use shunt_proto::wire::{Invalid, Policy, asked_labels_from_pb, labels_to_pb};
use std::collections::BTreeSet;
use tonic::{Request, Response, Status, async_trait};

#[async_trait]
impl pb::cluster_service_server::ClusterService for Api {
    async fn get_status(
        &self,
        _request: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::Status>, Status> {
        self.answer("GetStatus", async { Ok(status(self)) }).await
    }

    async fn get_policy(
        &self,
        _request: Request<pb::GetPolicyRequest>,
    ) -> Result<Response<pb::Policy>, Status> {
        self.answer("GetPolicy", async { Ok(Show::new(self, &*self.view()?).policy()) }).await
    }

    async fn update_policy(
        &self,
        request: Request<pb::UpdatePolicyRequest>,
    ) -> Result<Response<pb::Policy>, Status> {
        self.answer("UpdatePolicy", async {
            let pb::UpdatePolicyRequest { policy, update_mask } = request.into_inner();
            let new = policy.unwrap_or_default();
            let known = policy_fields(&new);
            let fields = fields(update_mask.as_ref(), &known, |_| None)?;
            let change = |kept: &Policy| update_policy(kept, &new, &fields);
            let view = self.edit(|view| intent::update_policy(view, &new.etag, change)).await?;
            Ok(Show::new(self, &view).policy())
        })
        .await
    }

    async fn list_data_planes(
        &self,
        request: Request<pb::ListDataPlanesRequest>,
    ) -> Result<Response<pb::ListDataPlanesResponse>, Status> {
        self.answer("ListDataPlanes", async {
            let pb::ListDataPlanesRequest { page_size, page_token } = request.into_inner();
            let page = Page::new("data planes", page_size, &page_token)?;
            let view = self.view()?;
            let (ids, next_page_token) = page.cut(view.planes.keys(), |id| (*id).clone());
            let data_planes = ids.into_iter().map(|id| data_plane(self, &view, id)).collect();
            Ok(pb::ListDataPlanesResponse { data_planes, next_page_token })
        })
        .await
    }

    async fn forget_data_plane(
        &self,
        request: Request<pb::ForgetDataPlaneRequest>,
    ) -> Result<Response<()>, Status> {
        self.answer("ForgetDataPlane", async {
            let id = request.into_inner().id;
            self.edit(|view| match self.planes.is_connected(&id) {
                true => Err(Error::Connected(id.clone())),
                false => blocks::release(view, &id),
            })
            .await?;
            self.planes.forget(&id);
            Ok(())
        })
        .await
    }

    async fn explain(
        &self,
        request: Request<pb::ExplainRequest>,
    ) -> Result<Response<pb::Explanation>, Status> {
        self.answer("Explain", async {
            let login = login(&request.into_inner())?;
            let view = self.view()?;
            let totals = self.planes.totals();
            let tenant_sessions = totals.tenants.get(&login.tenant).copied().unwrap_or(0);
            let explanation = explain(&view.snapshot, &login, tenant_sessions, |cn| Known {
                sessions: totals.cns.get(cn.name().as_str()).copied().unwrap_or(0),
                health: self.planes.health(cn.name().as_str()).0,
            });
            Ok(explanation_to_pb(login.tenant, explanation))
        })
        .await
    }

    async fn apply(&self, request: Request<pb::ApplyRequest>) -> Result<Response<pb::ApplyResponse>, Status> {
        self.answer("Apply", async {
            let request = request.into_inner();
            let prune = request.prune;
            let intent = intent_from_pb(request)?;
            self.view()?;
            let done = self.edits.make(|view| {
                let totals = self.planes.totals();
                let sessions = |cn: &shunt_proto::cn::CnId| {
                    // One that was not heard of since we began may have some.
                    let is_known = self.planes.is_clear(cn.as_str(), 0, view.planes.keys());
                    totals.cns.get(cn.as_str()).copied().unwrap_or(0).max(u32::from(!is_known))
                };
                apply::plan(view, &intent, prune, sessions)
            });
            let done = done.await?;
            let change = |change: Change| pb::apply_response::Change {
                object: change.object,
                what: change.what.as_str().to_owned(),
            };
            Ok(pb::ApplyResponse {
                changes: done.answer.into_iter().map(change).collect(),
                revision: done.view.snapshot.version().revision,
            })
        })
        .await
    }
}

/// Answers without a store too: then it says so.
fn status(api: &Api) -> pb::Status {
    let view = api.cluster.view();
    let snapshot = &view.snapshot;
    let count = |is: fn(&Object) -> bool| {
        u32::try_from(snapshot.entries().filter(|(_, entry)| is(&entry.object)).count()).unwrap_or(u32::MAX)
    };
    let down = snapshot.cns().filter(|cn| api.planes.health(cn.name().as_str()).0 == Health::Down);
    let down = u32::try_from(down.count()).unwrap_or(u32::MAX);
    let cns = count(|object| matches!(object, Object::Cn(_)));
    pb::Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        store_id: snapshot.version().store_id.clone(),
        revision: snapshot.version().revision,
        store: api.store_kind.to_owned(),
        store_problem: match &*api.standing.borrow() {
            Standing::InStep => String::new(),
            Standing::Starting(why) if why.is_empty() => "not read yet".to_owned(),
            Standing::Starting(why) | Standing::Behind(why) => why.clone(),
        },
        cns,
        cns_up: cns.saturating_sub(down),
        groups: count(|object| matches!(object, Object::Group(_))),
        tenants: count(|object| matches!(object, Object::Tenant(_))),
        sessions: Show::new(api, &view).sessions(),
        data_planes: view.planes.keys().map(|id| data_plane(api, &view, id)).collect(),
        started: Some(api.started.into()),
        replica: api.replica.clone().unwrap_or_default(),
        replicas: replicas(&view),
    }
}

fn replicas(view: &View) -> Vec<pb::Replica> {
    let leads = |id: &str| view.leader.as_ref().is_some_and(|leader| leader.kept.replica == id);
    let shown = |replica: &pb::Replica| pb::Replica { leader: leads(&replica.id), ..replica.clone() };
    view.replicas.values().map(shown).collect()
}

fn data_plane(api: &Api, view: &View, id: &str) -> pb::DataPlane {
    let kept = view.planes.get(id).map(|plane| &plane.kept);
    let mut shown = pb::DataPlane {
        id: id.to_owned(),
        first_session_id: kept.map_or(0, |kept| kept.first_session_id),
        version: kept.map_or_else(String::new, |kept| kept.version.clone()),
        ..pb::DataPlane::default()
    };
    if let Some(plane) = api.planes.shown(id) {
        shown.connected = plane.connected;
        shown.sessions = plane.sessions;
        shown.revision = plane.revision;
        shown.version = plane.version;
        shown.refused = plane.refused;
        shown.seen = Some(plane.seen.into());
    }
    shown
}

fn policy_fields(new: &pb::Policy) -> [Field; 8] {
    let rebalance = new.rebalance.as_ref();
    let migrate = new.migrate.as_ref();
    let field = |name, populated| Field { name, populated };
    [
        // Named as a whole, all of it is taken; without a mask only what is there.
        field("rebalance", false),
        field("migrate", false),
        field("rebalance.moves_per_second", rebalance.is_some_and(|r| r.moves_per_second != 0)),
        field("rebalance.tolerance", rebalance.is_some_and(|r| r.tolerance != 0.0)),
        field("migrate.settle_after", migrate.is_some_and(|m| m.settle_after.is_some())),
        field("migrate.freeze_deadline", migrate.is_some_and(|m| m.freeze_deadline.is_some())),
        field("migrate.last_result_grace", migrate.is_some_and(|m| m.last_result_grace.is_some())),
        field("migrate.wait_for_cn", migrate.is_some_and(|m| m.wait_for_cn.is_some())),
    ]
}

fn update_policy(kept: &Policy, new: &pb::Policy, fields: &[&str]) -> Result<Policy, Error> {
    let mut message = pb::Policy::from(kept);
    let rebalance = new.rebalance.unwrap_or_default();
    let migrate = new.migrate.unwrap_or_default();
    for field in fields {
        match *field {
            "rebalance" => message.rebalance = new.rebalance,
            "migrate" => message.migrate = new.migrate,
            "rebalance.moves_per_second" => {
                message.rebalance.get_or_insert_default().moves_per_second = rebalance.moves_per_second;
            }
            "rebalance.tolerance" => {
                message.rebalance.get_or_insert_default().tolerance = rebalance.tolerance;
            }
            "migrate.settle_after" => {
                message.migrate.get_or_insert_default().settle_after = migrate.settle_after;
            }
            "migrate.freeze_deadline" => {
                message.migrate.get_or_insert_default().freeze_deadline = migrate.freeze_deadline;
            }
            "migrate.last_result_grace" => {
                message.migrate.get_or_insert_default().last_result_grace = migrate.last_result_grace;
            }
            "migrate.wait_for_cn" => {
                message.migrate.get_or_insert_default().wait_for_cn = migrate.wait_for_cn;
            }
            _ => {}
        }
    }
    Ok(Policy::try_from(&message)?)
}

fn login(request: &pb::ExplainRequest) -> Result<Login, Error> {
    let pb::ExplainRequest { tenant, user: _, labels, client } = request;
    if tenant.len() > 255 {
        return Err(Invalid::new("tenant", "is longer than 255 bytes").into());
    }
    let client = match client.as_str() {
        "" => None,
        // As a session shows it, with its port, or without.
        text => Some(match (text.parse(), text.parse::<std::net::SocketAddr>()) {
            (Ok(address), _) => address,
            (_, Ok(address)) => address.ip(),
            _ => return Err(Invalid::new("client", format!("{text:?} is not an address")).into()),
        }),
    };
    let tenant = if tenant.is_empty() { DEFAULT_TENANT.to_owned() } else { tenant.clone() };
    Ok(Login { tenant, labels: asked_labels_from_pb(labels)?, client })
}

fn explanation_to_pb(tenant: String, explanation: Explanation) -> pb::Explanation {
    let Explanation { labels, candidates, matched, pick, refusal, summary } = explanation;
    let candidate = |candidate: Candidate| pb::explanation::Candidate {
        cn: candidate.cn.to_string(),
        tier: candidate.tier.map_or(0, |tier| tier as u32),
        chosen: candidate.chosen,
        reason: candidate.reason,
        sessions: candidate.sessions,
        health: pb::cn::Health::from(candidate.health).into(),
        state: pb::cn::State::from(candidate.state).into(),
    };
    pb::Explanation {
        tenant,
        labels: labels_to_pb(&labels),
        candidates: candidates.into_iter().map(candidate).collect(),
        r#match: matched.iter().map(ToString::to_string).collect(),
        pick: pick.map_or_else(String::new, |cn| cn.to_string()),
        refusal: refusal.map(|refusal| pb::explanation::Refusal {
            code: refusal.code().into(),
            sqlstate: refusal.sqlstate().to_owned(),
            message: refusal.to_string(),
        }),
        summary,
    }
}

fn intent_from_pb(request: pb::ApplyRequest) -> Result<Intent, Error> {
    let pb::ApplyRequest { groups, tenants, policy, prune: _ } = request;
    let policy = policy.map(|policy| Policy::try_from(&policy)).transpose()?;
    let groups = groups.into_iter().map(group_intent).collect::<Result<Vec<_>, Error>>()?;
    let tenants = tenants.iter().map(Tenant::try_from).collect::<Result<Vec<_>, _>>()?;
    Ok(Intent { groups, tenants, policy })
}

fn group_intent(group: pb::apply_request::Group) -> Result<GroupIntent, Error> {
    let pb::apply_request::Group { group, cns, keep_cns } = group;
    let group = CnGroup::try_from(&group.unwrap_or_default())?;
    let mut seen = BTreeSet::new();
    let mut members = Vec::with_capacity(cns.len());
    for mut cn in cns {
        if !cn.group.is_empty() && cn.group != group.name {
            let problem = format!("CN {} names group {}, in the list of {}", cn.name, cn.group, group.name);
            return Err(Invalid::new("groups.cns.group", problem).into());
        }
        cn.group.clone_from(&group.name);
        // As it is read back: what is output only says nothing.
        cn.state = pb::cn::State::Unspecified.into();
        if !cn.own_labels.is_empty() {
            cn.labels.clear();
        }
        let cn = super::cn::new_cn(cn)?;
        if !seen.insert(cn.name.clone()) {
            return Err(Invalid::new("groups.cns", format!("{} is named twice", cn.name)).into());
        }
        members.push(cn);
    }
    Ok(GroupIntent { group, cns: members, keep_cns })
}
