//! The way out: what of ours is in the host's namespace.

use serde_json::Value;

use super::{
    NetError,
    findings::{Finding, Problem},
    links::{Links, Seen},
    listing,
    namespace::Namespace,
    nft,
    plan::{Plan, UPLINK, UplinkRange},
    ranges, rules,
    settings::Settings,
    sysctl,
};

/// The chain that Docker leaves to others.
const DOCKER: (&str, &str, &str) = ("ip", "filter", "DOCKER-USER");
/// Names of the tables that iptables-legacy has made in the caller's namespace.
const LEGACY: &str = "/proc/thread-self/net/ip_tables_names";

/// The host's side of things.
#[derive(Debug)]
pub(super) struct Host {
    namespace: Namespace,
    links: Links,
}

impl Host {
    pub(super) async fn open(namespace: Namespace) -> Result<Self, NetError> {
        let links = Links::open(&namespace).await?;
        Ok(Self { namespace, links })
    }

    /// Where it is.
    pub(super) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Every range that the host has an address in or a route to, without what we made.
    pub(super) async fn used(
        &self,
        ours: Option<UplinkRange>,
    ) -> Result<Vec<ipnet::Ipv4Net>, NetError> {
        let routes = self.links.routes().await?.into_iter().map(|(range, _)| range);
        let links = self.links.all().await?;
        let addresses = links.iter().flat_map(|link| &link.addresses).map(ipnet::Ipv4Net::trunc);
        let mut used: Vec<_> = routes.chain(addresses).collect();
        used.retain(|range| ours.is_none_or(|ours| !ours.0.contains(range)));
        used.sort();
        used.dedup();
        Ok(used)
    }

    /// The range of the link that is there, if both ends are whole.
    pub(super) async fn existing(
        &self,
        settings: &Settings,
        own: &Links,
    ) -> Result<Option<UplinkRange>, NetError> {
        let (here, there) = (self.links.all().await?, own.all().await?);
        let end = |links: &[Seen], name: &str| {
            links.iter().find(|l| l.name == name).and_then(|l| l.addresses.first().copied())
        };
        let host = end(&here, &settings.host_link());
        let range = host.map(|address| UplinkRange(address.trunc()));
        let paired = range.filter(|range| {
            range.0.prefix_len() == 30
                && host == Some(range.host())
                && end(&there, UPLINK) == Some(range.own())
        });
        Ok(paired)
    }

    /// Makes everything so. The rules come first, so that no packet passes before they hold.
    pub(super) async fn ensure(
        &self,
        plan: &Plan,
        range: UplinkRange,
        own: (&Namespace, &Links),
    ) -> Result<(), NetError> {
        let settings = &plan.settings;
        nft::apply(&self.namespace, rules::host(plan, range)).await?;
        let name = settings.host_link();
        let (here, there) = (self.links.all().await?, own.1.all().await?);
        let whole = here.iter().any(|l| l.name == name) && there.iter().any(|l| l.name == UPLINK);
        if !whole {
            // An end without the other belongs to a namespace that nobody knows any more.
            self.remove_link(settings).await?;
            if let Some(rest) = there.iter().find(|link| link.name == UPLINK) {
                own.1.remove(rest).await?;
            }
            own.1.add_pair(UPLINK, &name, &self.namespace).await?;
        }
        for (links, name, address) in
            [(&self.links, name.as_str(), range.host()), (own.1, UPLINK, range.own())]
        {
            links.change(name, |link| link.up()).await?;
            let seen = links.all().await?;
            if let Some(link) = seen.iter().find(|link| link.name == name) {
                links.only_address(link, address).await?;
                links.settle(link.index).await?;
            }
        }
        own.1.default_route(range.host().addr()).await?;
        for (key, value) in sysctl::ensure(&self.namespace, &sysctl::HOST).await? {
            tracing::info!(setting = key, value, "the host routes from now on, for its sandboxes");
        }
        self.ensure_exception(settings).await
    }

    /// Interfaces between which the host forwarded nothing before we had it do so: those that it
    /// has now if it does not yet, or those that an earlier daemon found.
    pub(super) async fn closed(&self, settings: &Settings) -> Result<Vec<String>, NetError> {
        if !sysctl::differing(&self.namespace, &sysctl::HOST).await?.is_empty() {
            let links = self.links.all().await?;
            let others = links.into_iter().map(|link| link.name);
            return Ok(others
                .filter(|name| *name != settings.host_link() && name != "lo")
                .collect());
        }
        let sets = nft::list(&self.namespace, &["sets"]).await?;
        let ours = sets
            .iter()
            .map(|object| &object["set"])
            .find(|set| set["table"] == *settings.host_table() && set["name"] == *rules::CLOSED);
        let names = ours.and_then(|set| set["elem"].as_array());
        let text = |name: &Value| name.as_str().map(str::to_owned);
        Ok(names.into_iter().flatten().filter_map(text).collect())
    }

    /// Whether anything of ours is in the host.
    pub(super) async fn has_any(&self, settings: &Settings) -> Result<bool, NetError> {
        let (link, table) = (settings.host_link(), settings.host_table());
        if self.links.all().await?.iter().any(|seen| seen.name == link) {
            return Ok(true);
        }
        let tables = nft::list(&self.namespace, &["tables"]).await?;
        Ok(tables.iter().any(|object| object["table"]["name"] == *table))
    }

    /// Removes everything of ours from the host.
    pub(super) async fn close(&self, settings: &Settings) -> Result<(), NetError> {
        self.remove_link(settings).await?;
        let (_, handles) = self.exceptions(settings).await?;
        self.remove_exceptions(&handles).await?;
        nft::apply(&self.namespace, rules::no_host(settings)).await
    }

    /// What of ours in the host is not as it should be, and what of others is in the way.
    pub(super) async fn drift(
        &self,
        plan: &Plan,
        range: UplinkRange,
    ) -> Result<Vec<Finding>, NetError> {
        let settings = &plan.settings;
        let networks: Vec<_> = plan.networks.values().map(|network| network.range()).collect();
        let table = format!("inet {}", settings.host_table());
        let expected = listing::expected(rules::host(plan, range)).await?;
        let actual = listing::actual(&self.namespace).await?;
        let mut findings = listing::compare(&expected, &actual, |name| name == table);
        let links = self.links.all().await?;
        findings.extend(end(&links, &settings.host_link(), range.host()));
        for ((key, wanted), found) in sysctl::differing(&self.namespace, &sysctl::HOST).await? {
            findings.push(Finding::Sysctl { key, wanted, found });
        }
        findings.extend(self.in_the_way(settings).await?);
        for by in ranges::networks(&self.used(Some(range)).await?) {
            let mine = networks.iter().chain([&range.0]).filter(|r| ranges::overlap(**r, by));
            findings.extend(mine.map(|range| Finding::RangeTaken { range: *range, by }));
        }
        Ok(findings)
    }

    async fn remove_link(&self, settings: &Settings) -> Result<(), NetError> {
        let name = settings.host_link();
        match self.links.all().await?.iter().find(|link| link.name == name) {
            Some(link) => self.links.remove(link).await,
            None => Ok(()),
        }
    }

    /// Base chains of others that drop what is forwarded and that we have no exception in.
    async fn in_the_way(&self, settings: &Settings) -> Result<Vec<Finding>, NetError> {
        let (docker, exceptions) = self.exceptions(settings).await?;
        let mut findings = Vec::new();
        for chain in nft::list(&self.namespace, &["chains"]).await? {
            let chain = &chain["chain"];
            let text = |key: &str| chain[key].as_str().unwrap_or_default();
            let (family, table) = (text("family"), text("table"));
            let excepted = docker && (family, table) == (DOCKER.0, DOCKER.1);
            if text("hook") == "forward"
                && text("policy") == "drop"
                && ["ip", "inet"].contains(&family)
                && !excepted
            {
                let chain = format!("{family} {table} {}", text("name"));
                findings.push(Finding::ForwardClosed { chain });
            }
        }
        if docker && exceptions.len() != exception(settings).len() {
            let table = format!("{} {}", DOCKER.0, DOCKER.1);
            let part = format!("our exception in chain {}", DOCKER.2);
            findings.push(Finding::Rules { table, part, problem: Problem::Missing });
        }
        let legacy = self.namespace.inside(|| fs_err::read_to_string(LEGACY)).await;
        if legacy.is_ok_and(|names| names.is_ok_and(|names| names.contains("filter"))) {
            findings.push(Finding::LegacyRules);
        }
        Ok(findings)
    }

    /// Whether Docker's chain is there, and the handles of our rules in it.
    async fn exceptions(&self, settings: &Settings) -> Result<(bool, Vec<u64>), NetError> {
        let is_ours = |object: &Value, name: &str| {
            object["family"] == DOCKER.0 && object["table"] == DOCKER.1 && object[name] == DOCKER.2
        };
        let chains = nft::list(&self.namespace, &["chains"]).await?;
        if !chains.iter().any(|object| is_ours(&object["chain"], "name")) {
            return Ok((false, Vec::new()));
        }
        let rules = nft::list(&self.namespace, &["chain", DOCKER.0, DOCKER.1, DOCKER.2]).await?;
        let handles = rules
            .iter()
            .map(|object| &object["rule"])
            .filter(|rule| is_ours(rule, "chain") && rule["comment"] == settings.comment())
            .filter_map(|rule| rule["handle"].as_u64())
            .collect();
        Ok((true, handles))
    }

    async fn ensure_exception(&self, settings: &Settings) -> Result<(), NetError> {
        let (docker, handles) = self.exceptions(settings).await?;
        let wanted = exception(settings);
        if !docker || handles.len() == wanted.len() {
            return Ok(());
        }
        self.remove_exceptions(&handles).await?;
        let (family, table, chain) = DOCKER;
        let script: String = wanted
            .iter()
            .map(|rule| format!("insert rule {family} {table} {chain} {rule}\n"))
            .collect();
        nft::apply(&self.namespace, script).await
    }

    async fn remove_exceptions(&self, handles: &[u64]) -> Result<(), NetError> {
        if handles.is_empty() {
            return Ok(());
        }
        let (family, table, chain) = DOCKER;
        let script: String = handles
            .iter()
            .map(|handle| format!("delete rule {family} {table} {chain} handle {handle}\n"))
            .collect();
        nft::apply(&self.namespace, script).await
    }
}

/// What lets our packets pass Docker. Nothing but interfaces is said here, in the words that
/// iptables understands, so that it can still read its table; our own table judges the rest.
fn exception(settings: &Settings) -> [String; 2] {
    let (link, comment) = (settings.host_link(), settings.comment());
    ["iifname", "oifname"]
        .map(|side| format!("{side} \"{link}\" counter accept comment \"{comment}\""))
}

/// What is wrong with one end of the link to the host.
pub(super) fn end(links: &[Seen], name: &str, wanted: ipnet::Ipv4Net) -> Option<Finding> {
    let Some(link) = links.iter().find(|link| link.name == name) else {
        return Some(Finding::Link { name: name.to_owned(), problem: Problem::Missing });
    };
    if !link.up {
        return Some(Finding::Link { name: name.to_owned(), problem: Problem::Changed });
    }
    let right = link.addresses == [wanted];
    (!right).then(|| Finding::Address { link: name.to_owned(), wanted })
}
