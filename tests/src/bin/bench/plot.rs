//! Plots: medians over named points, with a whisker from the lowest to the highest.
//!
//! Responsible for one SVG that can be read on a light and on a dark page: it has a background of its own, and follows
//! what its reader prefers. Must never smooth, leave out or scale anything: what is drawn is what the table beside it says.

use plotters::coord::ranged1d::{IntoSegmentedCoord, SegmentValue};
use plotters::prelude::*;
use std::fmt::Display;

const PANEL_WIDTH: u32 = 440;
const HEIGHT: u32 = 320;
/// Drawn in these; they can be told apart on white and on black, and by who can't tell red from green.
const COLOURS: [RGBColor; 4] =
    [RGBColor(31, 119, 214), RGBColor(222, 120, 20), RGBColor(20, 150, 130), RGBColor(170, 90, 190)];
/// The lines of the grid are weak on either background.
const GRID: RGBColor = RGBColor(128, 128, 128);
const FONT: &str = "sans-serif";
/// In place of black and white for who prefers it dark.
const DARK: &str = "<style>@media (prefers-color-scheme: dark) {\
    [fill=\"#FFFFFF\"] {fill: #0d1117} [fill=\"#000000\"] {fill: #e6edf3} [stroke=\"#000000\"] {stroke: #e6edf3}\
    }</style>\n";

/// The median of several runs with the lowest and the highest.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

impl Spread {
    /// Of the values of all runs, of which there is at least one.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Spread { median: values[values.len() / 2], low: values[0], high: values[values.len() - 1] }
    }

    /// As a table has it.
    pub fn shown(&self, decimals: usize) -> String {
        let Spread { median, low, high } = self;
        format!("{median:.decimals$} ({low:.decimals$} to {high:.decimals$})")
    }
}

/// What was measured at each point, in their order; `None`: nothing was.
pub struct Series {
    /// Its name in the legend; empty if there is no other one.
    pub name: String,
    /// One for each point.
    pub values: Vec<Option<Spread>>,
}

/// One picture beside others over the same points.
pub struct Panel {
    /// What is drawn, with its unit.
    pub what: String,
    /// At most as many as there are colours.
    pub series: Vec<Series>,
}

/// The whole.
pub struct Plot {
    /// What the points are.
    pub over: String,
    /// Their names, in their order. They stand at equal distances.
    pub points: Vec<String>,
    /// At least one.
    pub panels: Vec<Panel>,
}

impl Plot {
    /// The text of an SVG.
    pub fn svg(&self) -> Result<String, String> {
        let mut text = String::new();
        let panels = self.panels.len();
        let width = PANEL_WIDTH * u32::try_from(panels).map_err(|error| error.to_string())?;
        let failed = |error: &dyn Display| format!("drawing: {error}");
        {
            let root = SVGBackend::with_string(&mut text, (width, HEIGHT)).into_drawing_area();
            root.fill(&WHITE).map_err(|error| failed(&error))?;
            for (panel, area) in self.panels.iter().zip(root.split_evenly((1, panels))) {
                self.draw(panel, &area).map_err(|error| failed(&error))?;
            }
            root.present().map_err(|error| failed(&error))?;
        }
        // Behind the first tag, which is the document's.
        let behind = text.find('>').map_or(0, |at| at + 1);
        text.insert_str(behind, DARK);
        Ok(text)
    }

    fn draw<B: DrawingBackend>(
        &self,
        panel: &Panel,
        area: &DrawingArea<B, plotters::coord::Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let values = || panel.series.iter().flat_map(|series| series.values.iter().flatten());
        let top = values().map(|value| value.high).fold(0.0, f64::max);
        // Everything at zero has an axis too.
        let top = if top > 0.0 { top * 1.08 } else { 1.0 };
        let mut chart = ChartBuilder::on(area)
            .caption(&panel.what, (FONT, 16))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(58)
            .build_cartesian_2d((0..self.points.len().max(1) - 1).into_segmented(), 0.0..top)?;
        let name = |at: &SegmentValue<usize>| match at {
            SegmentValue::CenterOf(at) | SegmentValue::Exact(at) => {
                self.points.get(*at).cloned().unwrap_or_default()
            }
            SegmentValue::Last => String::new(),
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(GRID.mix(0.0))
            .bold_line_style(GRID.mix(0.3))
            .axis_style(GRID)
            .label_style((FONT, 14))
            .axis_desc_style((FONT, 14))
            .x_desc(&self.over)
            .x_labels(self.points.len())
            .x_label_formatter(&name)
            .y_labels(6)
            .draw()?;
        for (series, colour) in panel.series.iter().zip(COLOURS) {
            let known = || series.values.iter().enumerate().filter_map(|(at, value)| Some((at, (*value)?)));
            let line = known().map(|(at, value)| (SegmentValue::CenterOf(at), value.median));
            let drawn = chart.draw_series(LineSeries::new(line, colour.stroke_width(2)))?;
            if !series.name.is_empty() {
                drawn
                    .label(&series.name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            }
            chart.draw_series(known().map(|(at, Spread { median, low, high })| {
                ErrorBar::new_vertical(SegmentValue::CenterOf(at), low, median, high, colour.filled(), 8)
            }))?;
        }
        if panel.series.iter().any(|series| !series.name.is_empty()) {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperLeft)
                .label_font((FONT, 14))
                .background_style(WHITE.filled())
                .border_style(GRID.mix(0.5))
                .draw()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Panel, Plot, Series, Spread};

    fn plot(series: Vec<Series>) -> Plot {
        let panels = vec![Panel { what: "ms < 10".to_owned(), series }];
        Plot { over: "records/s".to_owned(), points: vec!["10,000".to_owned(), "100,000".to_owned()], panels }
    }

    #[test]
    fn every_name_stands_in_it_and_both_backgrounds() {
        let value = |median| Some(Spread { median, low: median - 1.0, high: median + 1.0 });
        let series =
            ["p50", "p99"].map(|name| Series { name: name.to_owned(), values: vec![value(5.0), value(9.0)] });
        let svg = plot(series.into()).svg().unwrap();
        for text in
            ["10,000", "100,000", "records/s", "ms &lt; 10", "p50", "p99", "prefers-color-scheme: dark"]
        {
            assert!(svg.contains(text), "{text} is missing in {svg}");
        }
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
    }

    #[test]
    fn what_was_not_measured_is_not_drawn() {
        let svg = plot(vec![Series { name: String::new(), values: vec![None, None] }]).svg().unwrap();
        assert!(!svg.contains("<circle"), "{svg}");
    }
}
