//! `GroupService`.

use super::Api;
use super::mask::{Field, fields};
use super::page::Page;
use super::shown::Show;
use crate::error::Error;
use crate::intent;
use shunt_proto::cn::CnGroup;
use shunt_proto::pb;
use shunt_proto::snapshot::Object;
use tonic::{Request, Response, Status, async_trait};

const WHY_NOT: &[(&str, &str)] = &[
    ("name", "cannot change"),
    ("cns", "is an output: update the CNs' group, or use Apply"),
    ("working", "is an output"),
    ("sessions", "is an output"),
];

#[async_trait]
impl pb::group_service_server::GroupService for Api {
    async fn create_group(
        &self,
        request: Request<pb::CreateGroupRequest>,
    ) -> Result<Response<pb::CnGroup>, Status> {
        self.answer("CreateGroup", async {
            let group = CnGroup::try_from(&request.into_inner().group.unwrap_or_default())?;
            let view = self.edit(|view| intent::create_group(view, group.clone())).await?;
            Ok(Show::new(self, &view).group(intent::group(&view.snapshot, &group.name)?))
        })
        .await
    }

    async fn get_group(
        &self,
        request: Request<pb::GetGroupRequest>,
    ) -> Result<Response<pb::CnGroup>, Status> {
        self.answer("GetGroup", async {
            let view = self.view()?;
            let group = intent::group(&view.snapshot, &request.into_inner().name)?;
            Ok(Show::new(self, &view).group(group))
        })
        .await
    }

    async fn list_groups(
        &self,
        request: Request<pb::ListGroupsRequest>,
    ) -> Result<Response<pb::ListGroupsResponse>, Status> {
        self.answer("ListGroups", async {
            let pb::ListGroupsRequest { page_size, page_token } = request.into_inner();
            let page = Page::new("groups", page_size, &page_token)?;
            let view = self.view()?;
            let show = Show::new(self, &view);
            let groups = view.snapshot.entries().filter_map(|(_, entry)| match &entry.object {
                Object::Group(group) => Some(group),
                _ => None,
            });
            let (groups, next_page_token) = page.cut(groups, |group| group.name.clone());
            let groups = groups.into_iter().map(|group| show.group(group)).collect();
            Ok(pb::ListGroupsResponse { groups, next_page_token })
        })
        .await
    }

    async fn update_group(
        &self,
        request: Request<pb::UpdateGroupRequest>,
    ) -> Result<Response<pb::CnGroup>, Status> {
        self.answer("UpdateGroup", async {
            let pb::UpdateGroupRequest { group, update_mask } = request.into_inner();
            let new = group.unwrap_or_default();
            let known = [
                Field { name: "labels", populated: !new.labels.is_empty() },
                Field { name: "tenant", populated: !new.tenant.is_empty() },
                Field { name: "replicas", populated: new.replicas != 0 },
            ];
            let hint = |path: &str| WHY_NOT.iter().find(|(name, _)| *name == path).map(|(_, why)| *why);
            let fields = fields(update_mask.as_ref(), &known, hint)?;
            let change = |group: &mut CnGroup| update(group, &new, &fields);
            let view = self.edit(|view| intent::update_group(view, &new.name, &new.etag, change)).await?;
            Ok(Show::new(self, &view).group(intent::group(&view.snapshot, &new.name)?))
        })
        .await
    }

    async fn delete_group(&self, request: Request<pb::DeleteGroupRequest>) -> Result<Response<()>, Status> {
        self.answer("DeleteGroup", async {
            let pb::DeleteGroupRequest { name, etag } = request.into_inner();
            self.edit(|view| intent::delete_group(view, &name, &etag)).await?;
            Ok(())
        })
        .await
    }
}

/// Takes `fields` of `new` into `group`.
fn update(group: &mut CnGroup, new: &pb::CnGroup, fields: &[&str]) -> Result<(), Error> {
    let mut message = pb::CnGroup::from(&*group);
    for field in fields {
        match *field {
            "labels" => message.labels.clone_from(&new.labels),
            "tenant" => message.tenant.clone_from(&new.tenant),
            "replicas" => message.replicas = new.replicas,
            _ => {}
        }
    }
    *group = CnGroup::try_from(&message)?;
    Ok(())
}
