//! `TenantService`.

use super::Api;
use super::mask::{Field, fields};
use super::page::Page;
use super::shown::Show;
use crate::error::Error;
use crate::intent;
use shunt_proto::pb;
use shunt_proto::snapshot::Object;
use shunt_proto::tenant::Tenant;
use tonic::{Request, Response, Status, async_trait};

const WHY_NOT: &[(&str, &str)] = &[("name", "cannot change"), ("sessions", "is an output")];

#[async_trait]
impl pb::tenant_service_server::TenantService for Api {
    async fn create_tenant(
        &self,
        request: Request<pb::CreateTenantRequest>,
    ) -> Result<Response<pb::Tenant>, Status> {
        self.answer("CreateTenant", async {
            let tenant = Tenant::try_from(&request.into_inner().tenant.unwrap_or_default())?;
            let view = self.edit(|view| intent::create_tenant(view, tenant.clone())).await?;
            Ok(Show::new(self, &view).tenant(intent::tenant(&view.snapshot, &tenant.name)?))
        })
        .await
    }

    async fn get_tenant(
        &self,
        request: Request<pb::GetTenantRequest>,
    ) -> Result<Response<pb::Tenant>, Status> {
        self.answer("GetTenant", async {
            let view = self.view()?;
            let tenant = intent::tenant(&view.snapshot, &request.into_inner().name)?;
            Ok(Show::new(self, &view).tenant(tenant))
        })
        .await
    }

    async fn list_tenants(
        &self,
        request: Request<pb::ListTenantsRequest>,
    ) -> Result<Response<pb::ListTenantsResponse>, Status> {
        self.answer("ListTenants", async {
            let pb::ListTenantsRequest { page_size, page_token } = request.into_inner();
            let page = Page::new("tenants", page_size, &page_token)?;
            let view = self.view()?;
            let show = Show::new(self, &view);
            let tenants = view.snapshot.entries().filter_map(|(_, entry)| match &entry.object {
                Object::Tenant(tenant) => Some(tenant),
                _ => None,
            });
            let (tenants, next_page_token) = page.cut(tenants, |tenant| tenant.name.clone());
            let tenants = tenants.into_iter().map(|tenant| show.tenant(tenant)).collect();
            Ok(pb::ListTenantsResponse { tenants, next_page_token })
        })
        .await
    }

    async fn update_tenant(
        &self,
        request: Request<pb::UpdateTenantRequest>,
    ) -> Result<Response<pb::Tenant>, Status> {
        self.answer("UpdateTenant", async {
            let pb::UpdateTenantRequest { tenant, update_mask } = request.into_inner();
            let new = tenant.unwrap_or_default();
            let known = [
                Field { name: "default_labels", populated: !new.default_labels.is_empty() },
                Field { name: "allow", populated: !new.allow.is_empty() },
                Field { name: "max_sessions", populated: new.max_sessions != 0 },
                Field { name: "on_no_match", populated: new.on_no_match != 0 },
                Field { name: "suspended", populated: new.suspended },
            ];
            let hint = |path: &str| WHY_NOT.iter().find(|(name, _)| *name == path).map(|(_, why)| *why);
            let fields = fields(update_mask.as_ref(), &known, hint)?;
            let change = |tenant: &mut Tenant| update(tenant, &new, &fields);
            let view = self.edit(|view| intent::update_tenant(view, &new.name, &new.etag, change)).await?;
            Ok(Show::new(self, &view).tenant(intent::tenant(&view.snapshot, &new.name)?))
        })
        .await
    }

    async fn delete_tenant(&self, request: Request<pb::DeleteTenantRequest>) -> Result<Response<()>, Status> {
        self.answer("DeleteTenant", async {
            let pb::DeleteTenantRequest { name, etag } = request.into_inner();
            self.edit(|view| intent::delete_tenant(view, &name, &etag)).await?;
            Ok(())
        })
        .await
    }
}

/// Takes `fields` of `new` into `tenant`.
fn update(tenant: &mut Tenant, new: &pb::Tenant, fields: &[&str]) -> Result<(), Error> {
    let mut message = pb::Tenant::from(&*tenant);
    for field in fields {
        match *field {
            "default_labels" => message.default_labels.clone_from(&new.default_labels),
            "allow" => message.allow.clone_from(&new.allow),
            "max_sessions" => message.max_sessions = new.max_sessions,
            "on_no_match" => message.on_no_match = new.on_no_match,
            "suspended" => message.suspended = new.suspended,
            _ => {}
        }
    }
    *tenant = Tenant::try_from(&message)?;
    Ok(())
}
