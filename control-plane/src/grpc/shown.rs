//! How objects show to people: what is kept, and what is known of it now.

use super::Api;
use crate::cluster::View;
use crate::intent;
use crate::planes::Totals;
use shunt_proto::cn::{CnGroup, CnId, CnState, Health, RoutedCn};
use shunt_proto::pb;
use shunt_proto::tenant::Tenant;
use shunt_proto::wire::shown_labels;

/// What is needed to show objects of one view.
pub(super) struct Show<'a> {
    api: &'a Api,
    view: &'a View,
    totals: std::sync::Arc<Totals>,
}

impl<'a> Show<'a> {
    pub(super) fn new(api: &'a Api, view: &'a View) -> Self {
        Self { api, view, totals: api.planes.totals() }
    }

    pub(super) fn cn(&self, cn: &RoutedCn) -> pb::Cn {
        let name = cn.name().as_str();
        let (health, health_reason) = self.api.planes.health(name);
        pb::Cn {
            labels: shown_labels(&cn.labels, cn.tenant.as_deref()),
            health: pb::cn::Health::from(health).into(),
            health_reason,
            sessions: self.on_cn(name),
            etag: intent::etag(&self.view.snapshot, &format!("cn/{name}")),
            waits_for: self.waits_for(cn),
            ..pb::Cn::from(cn.cn.as_ref())
        }
    }

    /// The data planes that a CN which drains waits for.
    fn waits_for(&self, cn: &RoutedCn) -> Vec<String> {
        if cn.cn.state != CnState::Draining {
            return Vec::new();
        }
        let name = cn.name().as_str();
        let since = self.view.mod_revision(&format!("cn/{name}"));
        self.api.planes.waits_for(name, since, self.view.planes.keys())
    }

    /// The CN of that name, which is in the view.
    pub(super) fn cn_named(&self, name: &str) -> Result<pb::Cn, crate::error::Error> {
        let missing = || crate::error::Error::NotFound(crate::error::Kind::Cn, name.to_owned());
        let id = CnId::new(name).map_err(|_| missing())?;
        self.view.snapshot.cn(&id).map(|cn| self.cn(cn)).ok_or_else(missing)
    }

    pub(super) fn group(&self, group: &CnGroup) -> pb::CnGroup {
        let mut shown = pb::CnGroup::from(group);
        for cn in intent::members(&self.view.snapshot, &group.name) {
            let name = cn.name.as_str();
            let up = self.api.planes.health(name).0 != Health::Down;
            shown.working += u32::from(cn.state == CnState::Working && up);
            shown.sessions = shown.sessions.saturating_add(self.on_cn(name));
            shown.cns.push(name.to_owned());
        }
        shown.etag = intent::etag(&self.view.snapshot, &format!("group/{}", group.name));
        shown
    }

    pub(super) fn tenant(&self, tenant: &Tenant) -> pb::Tenant {
        pb::Tenant {
            sessions: self.totals.tenants.get(&tenant.name).copied().unwrap_or(0),
            etag: intent::etag(&self.view.snapshot, &format!("tenant/{}", tenant.name)),
            ..pb::Tenant::from(tenant)
        }
    }

    pub(super) fn policy(&self) -> pb::Policy {
        pb::Policy {
            etag: intent::etag(&self.view.snapshot, "policy"),
            ..pb::Policy::from(&self.view.snapshot.policy())
        }
    }

    /// Sessions of all data planes.
    pub(super) fn sessions(&self) -> u32 {
        self.totals.sessions
    }

    fn on_cn(&self, name: &str) -> u32 {
        self.totals.cns.get(name).copied().unwrap_or(0)
    }
}
