//! `tenant`.

use crate::answer::Answer;
use crate::args::Tenant;
use crate::server::{Failure, PAGE, Server};
use crate::table::{fields, table};
use crate::words::{NONE, labels, or_none, yes};
use shunt_proto::pb;

pub(super) async fn run(server: &Server, command: &Tenant) -> Result<Answer, Failure> {
    let mut tenants = server.tenants();
    match command {
        Tenant::List => list(server).await,
        Tenant::Get { name } => {
            let tenant = server.call(tenants.get_tenant(pb::GetTenantRequest { name: name.clone() })).await?;
            Ok(Answer::message(&tenant, shown(&tenant)))
        }
        Tenant::Delete { name } => {
            let request = pb::DeleteTenantRequest { name: name.clone(), etag: String::new() };
            server.call(tenants.delete_tenant(request)).await?;
            Ok(Answer::done(format!("tenant/{name} deleted")))
        }
    }
}

async fn list(server: &Server) -> Result<Answer, Failure> {
    let tenants = server
        .pages(async |page_token| {
            let request = pb::ListTenantsRequest { page_size: PAGE, page_token };
            let page = server.call(server.tenants().list_tenants(request)).await?;
            Ok((page.tenants, page.next_page_token))
        })
        .await?;
    let header = ["NAME", "DEFAULT LABELS", "ALLOW", "SESSIONS", "LIMIT", "ON NO MATCH", "SUSPENDED"];
    let row = |tenant: &pb::Tenant| {
        [
            tenant.name.clone(),
            labels(&tenant.default_labels),
            or_none(tenant.allow.join(",")),
            tenant.sessions.to_string(),
            limit(tenant),
            tenant.on_no_match().as_str_name().to_owned(),
            yes(tenant.suspended).to_owned(),
        ]
    };
    Ok(Answer::list("tenants", &tenants, table(header, tenants.iter().map(row), "No tenants declared")))
}

fn shown(tenant: &pb::Tenant) -> String {
    fields([
        ("Name", tenant.name.clone()),
        ("Default labels", labels(&tenant.default_labels)),
        ("Allow", or_none(tenant.allow.join(","))),
        ("Sessions", tenant.sessions.to_string()),
        ("Limit", limit(tenant)),
        ("On no match", tenant.on_no_match().as_str_name().to_owned()),
        ("Suspended", yes(tenant.suspended).to_owned()),
    ])
}

fn limit(tenant: &pb::Tenant) -> String {
    match tenant.max_sessions {
        0 => NONE.to_owned(),
        max => max.to_string(),
    }
}
