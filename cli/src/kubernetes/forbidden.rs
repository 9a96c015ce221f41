//! What the API server refused to whom, and the commands that would allow it. Pure.

use std::fmt;

/// A refusal of RBAC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forbidden {
    pub(crate) user: String,
    pub(crate) verb: String,
    /// With its subresource: `pods/portforward`.
    pub(crate) resource: String,
    /// "" is the core's.
    pub(crate) group: String,
    /// None: of the whole cluster.
    pub(crate) namespace: Option<String>,
}

impl Forbidden {
    /// Reads the message of a 403, such as `pods is forbidden: User "bob" cannot list resource "pods"
    /// in API group "" in the namespace "shop"`. None: it was not RBAC that refused.
    pub(crate) fn parse(message: &str) -> Option<Self> {
        let (_, rest) = message.split_once("User \"")?;
        let (user, rest) = rest.split_once("\" cannot ")?;
        let (verb, rest) = rest.split_once(" resource \"")?;
        let (resource, rest) = rest.split_once("\" in API group \"")?;
        let (group, rest) = rest.split_once('"')?;
        let namespace = rest
            .split_once(" in the namespace \"")
            .and_then(|(_, rest)| rest.split_once('"'))
            .map(|(namespace, _)| namespace.to_owned());
        Some(Self {
            user: user.to_owned(),
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            group: group.to_owned(),
            namespace,
        })
    }

    /// As `kubectl create role` takes it: `RESOURCE.GROUP/SUBRESOURCE`.
    fn resource_argument(&self) -> String {
        let (resource, sub) = match self.resource.split_once('/') {
            Some((resource, sub)) => (resource, format!("/{sub}")),
            None => (self.resource.as_str(), String::new()),
        };
        match self.group.as_str() {
            "" => format!("{resource}{sub}"),
            group => format!("{resource}.{group}{sub}"),
        }
    }

    /// What an administrator can do about it. Each right has a name of its own, so that the next one can be
    /// given, too.
    pub(crate) fn remedy(&self) -> String {
        let (verb, resource) = (&self.verb, self.resource_argument());
        let name = format!("outrider-{verb}-{}", self.resource.replace('/', "-"));
        let whom = subject(&self.user);
        match &self.namespace {
            Some(namespace) => format!(
                "an administrator allows it with: kubectl create role {name} -n {namespace} --verb={verb} \
                 --resource={resource}; kubectl create rolebinding {name} -n {namespace} --role={name} {whom}"
            ),
            None => format!(
                "an administrator allows it with: kubectl create clusterrole {name} --verb={verb} \
                 --resource={resource}; kubectl create clusterrolebinding {name} --clusterrole={name} {whom}"
            ),
        }
    }
}

/// Somebody, as `kubectl create rolebinding` takes him.
pub(crate) fn subject(user: &str) -> String {
    match user.strip_prefix("system:serviceaccount:") {
        Some(account) => format!("--serviceaccount={account}"),
        None => format!("--user={user}"),
    }
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            user,
            verb,
            namespace,
            ..
        } = self;
        write!(f, "{user} may not {verb} {}", self.resource_argument())?;
        match namespace {
            Some(namespace) => write!(f, " in the namespace {namespace}"),
            None => f.write_str(" in the whole cluster"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_verb_and_resource_and_what_to_do() {
        let forbidden = Forbidden::parse(
            r#"pods "order-1" is forbidden: User "bob" cannot create resource "pods/portforward" in API group "" in the namespace "shop""#,
        )
        .unwrap();
        assert_eq!(
            forbidden.to_string(),
            "bob may not create pods/portforward in the namespace shop"
        );
        assert_eq!(
            forbidden.remedy(),
            "an administrator allows it with: kubectl create role outrider-create-pods-portforward -n shop --verb=create \
             --resource=pods/portforward; kubectl create rolebinding outrider-create-pods-portforward -n shop \
             --role=outrider-create-pods-portforward --user=bob"
        );
    }

    #[test]
    fn of_the_whole_cluster_and_of_a_group() {
        let forbidden = Forbidden::parse(
            r#"authorizationpolicies.outrider.mesh is forbidden: User "system:serviceaccount:shop:ci" cannot list resource "authorizationpolicies" in API group "outrider.mesh" at the cluster scope"#,
        )
        .unwrap();
        assert_eq!(
            forbidden.to_string(),
            "system:serviceaccount:shop:ci may not list authorizationpolicies.outrider.mesh in the whole cluster"
        );
        assert!(
            forbidden.remedy().ends_with(
                "--resource=authorizationpolicies.outrider.mesh; kubectl create clusterrolebinding \
                 outrider-list-authorizationpolicies --clusterrole=outrider-list-authorizationpolicies \
                 --serviceaccount=shop:ci"
            ),
            "{}",
            forbidden.remedy()
        );
        let status = Forbidden {
            resource: "xmeshes/status".to_owned(),
            ..forbidden
        };
        assert_eq!(status.resource_argument(), "xmeshes.outrider.mesh/status");
    }

    #[test]
    fn not_every_403_is_of_rbac() {
        assert_eq!(
            Forbidden::parse("pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\""),
            None
        );
    }
}
