//! The formats of `/metrics`, and how a metric is written in them.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric, prometheus_text, text,
};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

/// A format for scrapers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exposition {
    /// Prometheus' own text, version 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Exposition {
    /// The format for a scraper that accepts these media types.
    pub(crate) fn preferred(accept: &str) -> Exposition {
        match accept.contains("application/openmetrics-text") {
            true => Exposition::OpenMetrics,
            false => Exposition::Prometheus,
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Exposition::Prometheus => prometheus_text::CONTENT_TYPE,
            Exposition::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The metrics of a collector in this format.
    pub(super) fn encode(self, metrics: impl Collector + 'static) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(metrics));
        let mut text = String::new();
        let written = match self {
            Exposition::Prometheus => prometheus_text::encode(&mut text, &registry),
            Exposition::OpenMetrics => text::encode(&mut text, &registry),
        };
        // A String takes everything, and no metric fails to be encoded.
        debug_assert!(written.is_ok());
        text
    }
}

/// Writes metrics: for each its descriptor, and one value or one for each set of labels.
pub(super) struct MetricWriter<'a>(pub(super) DescriptorEncoder<'a>);

impl MetricWriter<'_> {
    pub(super) fn gauge(
        &mut self,
        name: &str,
        help: &str,
        value: impl EncodeGaugeValue,
    ) -> fmt::Result {
        self.metric(None, name, help, &ConstGauge::new(value))
    }

    pub(super) fn gauge_in(
        &mut self,
        unit: Unit,
        name: &str,
        help: &str,
        value: impl EncodeGaugeValue,
    ) -> fmt::Result {
        self.metric(Some(unit), name, help, &ConstGauge::new(value))
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.metric(None, name, help, &ConstCounter::new(value))
    }

    pub(super) fn counter_in(
        &mut self,
        unit: Unit,
        name: &str,
        help: &str,
        value: impl EncodeCounterValue,
    ) -> fmt::Result {
        self.metric(Some(unit), name, help, &ConstCounter::new(value))
    }

    /// Gauges of one name, by their labels.
    pub(super) fn gauges<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: &[([(&str, impl AsRef<str>); N], u64)],
    ) -> fmt::Result {
        self.family(None, name, help, values, ConstGauge::new)
    }

    pub(super) fn gauges_in<const N: usize, V: EncodeGaugeValue + Copy + Default>(
        &mut self,
        unit: Unit,
        name: &str,
        help: &str,
        values: &[([(&str, impl AsRef<str>); N], V)],
    ) -> fmt::Result {
        self.family(Some(unit), name, help, values, ConstGauge::new)
    }

    /// Counters of one name, by their labels.
    pub(super) fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: &[([(&str, impl AsRef<str>); N], u64)],
    ) -> fmt::Result {
        self.family(None, name, help, values, ConstCounter::new)
    }

    pub(super) fn counters_in<const N: usize, V: EncodeCounterValue + Copy + Default>(
        &mut self,
        unit: Unit,
        name: &str,
        help: &str,
        values: &[([(&str, impl AsRef<str>); N], V)],
    ) -> fmt::Result {
        self.family(Some(unit), name, help, values, ConstCounter::new)
    }

    fn metric(
        &mut self,
        unit: Option<Unit>,
        name: &str,
        help: &str,
        metric: &impl EncodeMetric,
    ) -> fmt::Result {
        let kind = metric.metric_type();
        metric.encode(self.0.encode_descriptor(name, help, unit.as_ref(), kind)?)
    }

    fn family<const N: usize, V: Copy + Default, M: EncodeMetric>(
        &mut self,
        unit: Option<Unit>,
        name: &str,
        help: &str,
        values: &[([(&str, impl AsRef<str>); N], V)],
        metric: impl Fn(V) -> M,
    ) -> fmt::Result {
        let kind = metric(V::default()).metric_type();
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in values {
            let labels = labels
                .each_ref()
                .map(|(name, value)| (*name, value.as_ref()));
            metric(*value).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
