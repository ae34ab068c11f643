//! `CnService`.

use super::Api;
use super::mask::{Field, fields};
use super::page::Page;
use super::shown::Show;
use crate::error::Error;
use crate::intent;
use shunt_proto::cn::{Cn, DEFAULT_WEIGHT, Drain};
use shunt_proto::pb;
use shunt_proto::wire::{Invalid, labels_from_pb};
use tonic::{Request, Response, Status, async_trait};

const WHY_NOT: &[(&str, &str)] = &[
    ("labels", "is an output: change own_labels, or use LabelCn"),
    ("name", "cannot change"),
    ("state", "is an output: registering and draining set it"),
    ("health", "is an output"),
    ("health_reason", "is an output"),
    ("sessions", "is an output"),
    ("remove_when_empty", "is set by Apply with prune"),
    ("drain", "is set by DrainCn"),
    ("waits_for", "is an output"),
];

#[async_trait]
impl pb::cn_service_server::CnService for Api {
    async fn create_cn(&self, request: Request<pb::CreateCnRequest>) -> Result<Response<pb::Cn>, Status> {
        self.answer("CreateCn", async {
            let cn = new_cn(request.into_inner().cn.unwrap_or_default())?;
            let view = self.edit(|view| intent::create_cn(view, cn.clone())).await?;
            Show::new(self, &view).cn_named(cn.name.as_str())
        })
        .await
    }

    async fn get_cn(&self, request: Request<pb::GetCnRequest>) -> Result<Response<pb::Cn>, Status> {
        self.answer("GetCn", async {
            let view = self.view()?;
            Show::new(self, &view).cn_named(&request.into_inner().name)
        })
        .await
    }

    async fn list_cns(
        &self,
        request: Request<pb::ListCnsRequest>,
    ) -> Result<Response<pb::ListCnsResponse>, Status> {
        self.answer("ListCns", async {
            let pb::ListCnsRequest { page_size, page_token, group } = request.into_inner();
            let page = Page::new(&format!("cns of {group}"), page_size, &page_token)?;
            let view = self.view()?;
            let show = Show::new(self, &view);
            let of_group = |cn: &&std::sync::Arc<shunt_proto::cn::RoutedCn>| {
                group.is_empty() || cn.cn.group.as_deref() == Some(&group)
            };
            let cns = view.snapshot.cns().filter(of_group);
            let (cns, next_page_token) = page.cut(cns, |cn| cn.name().to_string());
            let cns = cns.into_iter().map(|cn| show.cn(cn)).collect();
            Ok(pb::ListCnsResponse { cns, next_page_token })
        })
        .await
    }

    async fn update_cn(&self, request: Request<pb::UpdateCnRequest>) -> Result<Response<pb::Cn>, Status> {
        self.answer("UpdateCn", async {
            let pb::UpdateCnRequest { cn, update_mask } = request.into_inner();
            let new = cn.unwrap_or_default();
            let known = [
                Field { name: "address", populated: !new.address.is_empty() },
                Field { name: "group", populated: !new.group.is_empty() },
                Field { name: "own_labels", populated: !new.own_labels.is_empty() },
                Field { name: "zone", populated: !new.zone.is_empty() },
                Field { name: "weight", populated: new.weight != 0 },
            ];
            let hint = |path: &str| WHY_NOT.iter().find(|(name, _)| *name == path).map(|(_, why)| *why);
            let fields = fields(update_mask.as_ref(), &known, hint)?;
            let view = self
                .edit(|view| intent::update_cn(view, &new.name, &new.etag, |cn| update(cn, &new, &fields)))
                .await?;
            Show::new(self, &view).cn_named(&new.name)
        })
        .await
    }

    async fn label_cn(&self, request: Request<pb::LabelCnRequest>) -> Result<Response<pb::Cn>, Status> {
        self.answer("LabelCn", async {
            let pb::LabelCnRequest { name, set, remove, etag } = request.into_inner();
            let set = labels_from_pb("set", &set)?;
            if let Some(both) = remove.iter().find(|key| set.values(key).is_some()) {
                return Err(Invalid::new("remove", format!("label {both} is set as well")).into());
            }
            for key in &remove {
                shunt_proto::label::check_key(key).map_err(|problem| Invalid::new("remove", problem))?;
            }
            let change = |cn: &mut Cn| {
                for key in &remove {
                    cn.own_labels.remove(key);
                }
                let too_many = |problem| Error::from(Invalid::new("set", problem));
                for (key, values) in set.iter() {
                    cn.own_labels.remove(key);
                    cn.own_labels.declare(key).map_err(too_many)?;
                    for value in values {
                        cn.own_labels.add(key, value).map_err(too_many)?;
                    }
                }
                Ok(())
            };
            let view = self.edit(|view| intent::update_cn(view, &name, &etag, change)).await?;
            Show::new(self, &view).cn_named(&name)
        })
        .await
    }

    async fn drain_cn(&self, request: Request<pb::DrainCnRequest>) -> Result<Response<pb::Cn>, Status> {
        self.answer("DrainCn", async {
            let pb::DrainCnRequest { name, timeout, on_timeout } = request.into_inner();
            let drain = Drain::try_from(&pb::cn::Drain { timeout, on_timeout })?;
            let view = self.edit(|view| intent::drain_cn(view, &name, drain)).await?;
            Show::new(self, &view).cn_named(&name)
        })
        .await
    }

    async fn undrain_cn(&self, request: Request<pb::UndrainCnRequest>) -> Result<Response<pb::Cn>, Status> {
        self.answer("UndrainCn", async {
            let name = request.into_inner().name;
            let view = self.edit(|view| intent::undrain_cn(view, &name)).await?;
            Show::new(self, &view).cn_named(&name)
        })
        .await
    }

    async fn delete_cn(&self, request: Request<pb::DeleteCnRequest>) -> Result<Response<()>, Status> {
        self.answer("DeleteCn", async {
            let pb::DeleteCnRequest { name, etag, force } = request.into_inner();
            let sessions = self.planes.totals().cns.get(&name).copied().unwrap_or(0);
            self.edit(|view| intent::delete_cn(view, &name, &etag, force, sessions.into())).await?;
            Ok(())
        })
        .await
    }
}

/// A CN to be registered. Where only `labels` is given it says its own labels.
pub(super) fn new_cn(mut cn: pb::Cn) -> Result<Cn, Error> {
    match (cn.labels.is_empty(), cn.own_labels.is_empty()) {
        (false, true) => cn.own_labels = std::mem::take(&mut cn.labels),
        (false, false) => {
            return Err(Invalid::new("cn.labels", "is given beside own_labels: give own_labels only").into());
        }
        _ => {}
    }
    if !matches!(cn.state(), pb::cn::State::Unspecified | pb::cn::State::Working) {
        return Err(Invalid::new("cn.state", "is an output: a registered CN is working").into());
    }
    (cn.remove_when_empty, cn.drain) = (false, None);
    Ok(Cn::try_from(&cn)?)
}

/// Takes `fields` of `new` into `cn`.
fn update(cn: &mut Cn, new: &pb::Cn, fields: &[&str]) -> Result<(), Error> {
    let mut message = pb::Cn::from(&*cn);
    for field in fields {
        match *field {
            "address" => message.address.clone_from(&new.address),
            "group" => message.group.clone_from(&new.group),
            "own_labels" => message.own_labels.clone_from(&new.own_labels),
            "zone" => message.zone.clone_from(&new.zone),
            "weight" => message.weight = if new.weight == 0 { DEFAULT_WEIGHT } else { new.weight },
            _ => {}
        }
    }
    *cn = Cn::try_from(&message)?;
    Ok(())
}
