//! A lossless XML tree: quick-xml's events with the source text of each kept.
//!
//! Bounded on purpose: documents come from users and from other tools. A document type declaration is refused, so no
//! entity can be defined.

use std::borrow::Cow;
use std::fmt;

use quick_xml::Reader;
use quick_xml::escape::{escape, unescape};
use quick_xml::events::{BytesStart, Event};

/// Largest document that is read, in bytes.
pub const LARGEST: usize = 4 << 20;
/// Deepest nesting that is read.
pub const DEEPEST: usize = 64;
/// Spaces by which a new element is indented below its parent.
const INDENT: usize = 2;

/// Why a document isn't one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

/// A document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    before: String,
    root: Element,
    after: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Element(Element),
    /// Text, references, CDATA, comments and instructions, as they stand in the source.
    Raw {
        source: String,
        is_text: bool,
    },
}

/// An element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    name: String,
    attributes: Vec<(String, String)>,
    nodes: Vec<Node>,
    /// Source of the start and end tag; an edit of the attributes drops the first, an edit of an empty element both.
    start: Option<String>,
    end: Option<String>,
    /// Spaces before it on its line.
    indent: usize,
}

impl Document {
    /// Reads a document.
    ///
    /// # Errors
    /// When it isn't well-formed, or is larger or deeper than a domain can be.
    pub fn parse(source: &str) -> Result<Self, ParseError> {
        if source.len() > LARGEST {
            return Err(ParseError { line: 1, what: format!("the document is larger than {LARGEST} bytes") });
        }
        Parser::new(source).document()
    }

    /// The outermost element.
    pub fn root(&self) -> &Element {
        &self.root
    }

    /// The outermost element, to be edited.
    pub fn root_mut(&mut self) -> &mut Element {
        &mut self.root
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.before, self.root, self.after)
    }
}

struct Parser<'a> {
    source: &'a str,
    reader: Reader<&'a [u8]>,
    at: usize,
    open: Vec<Element>,
}

impl<'a> Parser<'a> {
    fn new(source: &'a str) -> Self {
        let mut reader = Reader::from_str(source);
        reader.config_mut().check_comments = true;
        Self { source, reader, at: 0, open: Vec::new() }
    }

    fn error(&self, what: impl fmt::Display) -> ParseError {
        let upto = self.source.get(..self.at).unwrap_or(self.source);
        ParseError { line: upto.matches('\n').count() + 1, what: what.to_string() }
    }

    fn document(mut self) -> Result<Document, ParseError> {
        let (mut before, mut after, mut root) = (String::new(), String::new(), None);
        loop {
            let event = self.reader.read_event().map_err(|e| self.error(e))?;
            let end = usize::try_from(self.reader.buffer_position()).unwrap_or(usize::MAX);
            let source = self.source.get(self.at..end).unwrap_or_default().to_owned();
            match event {
                Event::Eof => break,
                Event::DocType(_) => return Err(self.error("a document type declaration has no place in a domain")),
                Event::Start(tag) => self.start(&tag, source, root.is_some())?,
                Event::Empty(tag) => {
                    self.start(&tag, source, root.is_some())?;
                    self.end(None, &mut root);
                }
                Event::End(_) => self.end(Some(source), &mut root),
                Event::Text(_) | Event::CData(_) | Event::GeneralRef(_) if self.open.is_empty() => {
                    if !source.trim().is_empty() {
                        return Err(self.error("text outside of the outermost element"));
                    }
                    if root.is_some() { &mut after } else { &mut before }.push_str(&source);
                }
                Event::Text(_) | Event::CData(_) | Event::GeneralRef(_) => self.text(source)?,
                Event::Comment(_) | Event::PI(_) | Event::Decl(_) => match self.open.last_mut() {
                    Some(open) => open.nodes.push(Node::Raw { source, is_text: false }),
                    None => if root.is_some() { &mut after } else { &mut before }.push_str(&source),
                },
            }
            self.at = end;
        }
        if let Some(open) = self.open.last() {
            return Err(self.error(format!("<{}> is never closed", open.name)));
        }
        let root = root.ok_or_else(|| self.error("there is no element"))?;
        Ok(Document { before, root, after })
    }

    fn start(&mut self, tag: &BytesStart<'_>, source: String, done: bool) -> Result<(), ParseError> {
        if done {
            return Err(self.error("a second outermost element"));
        }
        if self.open.len() >= DEEPEST {
            return Err(self.error(format!("elements are nested more than {DEEPEST} deep")));
        }
        let name = String::from_utf8_lossy(tag.name().as_ref().as_ref()).into_owned();
        let mut attributes = Vec::new();
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(|e| self.error(format!("<{name}>: {e}")))?;
            let key = String::from_utf8_lossy(attribute.key.as_ref().as_ref()).into_owned();
            let raw = String::from_utf8_lossy(attribute.value.as_ref().as_ref()).into_owned();
            let value = unescape(&raw).map_err(|e| self.error(format!("<{name} {key}>: {e}")))?.into_owned();
            attributes.push((key, value));
        }
        let before = self.source.get(..self.at).unwrap_or_default();
        let line = before.rsplit('\n').next().unwrap_or_default();
        let indent = if line.trim().is_empty() { line.len() } else { 0 };
        self.open.push(Element { name, attributes, nodes: Vec::new(), start: Some(source), end: None, indent });
        Ok(())
    }

    fn end(&mut self, source: Option<String>, root: &mut Option<Element>) {
        if let Some(mut element) = self.open.pop() {
            element.end = source;
            match self.open.last_mut() {
                Some(parent) => parent.nodes.push(Node::Element(element)),
                None => *root = Some(element),
            }
        }
    }

    fn text(&mut self, source: String) -> Result<(), ParseError> {
        if !source.starts_with("<![CDATA[") {
            unescape(&source).map_err(|e| self.error(e))?;
        }
        if let Some(open) = self.open.last_mut() {
            match open.nodes.last_mut() {
                Some(Node::Raw { source: text, is_text: true }) => text.push_str(&source),
                _ => open.nodes.push(Node::Raw { source, is_text: true }),
            }
        }
        Ok(())
    }
}

impl Element {
    /// A new element without content.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), attributes: vec![], nodes: vec![], start: None, end: None, indent: 0 }
    }

    /// The same with an attribute.
    pub fn with(mut self, attribute: &str, value: impl Into<String>) -> Self {
        self.set(attribute, value);
        self
    }

    /// The same with text.
    pub fn with_text(mut self, text: &str) -> Self {
        self.set_text(text);
        self
    }

    /// The same with a child.
    pub fn with_child(mut self, child: Element) -> Self {
        self.push(child);
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An attribute's value.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Attributes' names and values.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Sets an attribute.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        if self.attribute(name) == Some(&value) {
            return;
        }
        self.start = None;
        match self.attributes.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => self.attributes.push((name.into(), value)),
        }
    }

    /// Removes an attribute.
    pub fn unset(&mut self, name: &str) {
        if self.attribute(name).is_some() {
            self.attributes.retain(|(n, _)| n != name);
            self.start = None;
        }
    }

    /// All text directly inside, references resolved, without surrounding white space.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            if let Node::Raw { source, is_text: true } = node {
                text.push_str(&resolve(source));
            }
        }
        text.trim().to_owned()
    }

    /// Replaces everything inside by text.
    pub fn set_text(&mut self, text: &str) {
        if self.children().next().is_none() && self.text() == text {
            return;
        }
        self.opened();
        self.nodes = vec![Node::Raw { source: escape(text).into_owned(), is_text: true }];
    }

    /// Elements directly inside.
    pub fn children(&self) -> impl Iterator<Item = &Element> {
        self.nodes.iter().filter_map(|n| if let Node::Element(e) = n { Some(e) } else { None })
    }

    /// Elements directly inside, to be edited.
    pub fn children_mut(&mut self) -> impl Iterator<Item = &mut Element> {
        self.nodes.iter_mut().filter_map(|n| if let Node::Element(e) = n { Some(e) } else { None })
    }

    /// Elements of one name directly inside.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children().filter(move |e| e.name == name)
    }

    /// The first element at a path like `os/kernel`.
    pub fn find(&self, path: &str) -> Option<&Element> {
        path.split('/').try_fold(self, |at, name| at.children().find(|e| e.name == name))
    }

    /// The element at a path, made where it is missing.
    pub fn find_or_make(&mut self, path: &str) -> &mut Element {
        let mut at = self;
        for name in path.split('/') {
            let index = match at.nodes.iter().position(|n| matches!(n, Node::Element(e) if e.name == name)) {
                Some(index) => index,
                None => at.push(Element::new(name)),
            };
            let Node::Element(next) = &mut at.nodes[index] else { unreachable!("the index is an element's") };
            at = next;
        }
        at
    }

    /// Adds a child behind the others, on a line of its own.
    pub fn push(&mut self, child: Element) -> usize {
        let at = self.nodes.iter().rposition(|n| matches!(n, Node::Element(_))).map(|last| last + 1);
        self.insert_node(at, child)
    }

    /// Adds a child behind the last one of the same name, else behind all.
    pub fn push_beside(&mut self, child: Element) {
        let same = |n: &Node| matches!(n, Node::Element(e) if e.name == child.name);
        match self.nodes.iter().rposition(same) {
            Some(last) => drop(self.insert_node(Some(last + 1), child)),
            None => drop(self.push(child)),
        }
    }

    fn insert_node(&mut self, at: Option<usize>, mut child: Element) -> usize {
        let first = self.children().next().map(|e| e.indent);
        let indent = first.unwrap_or(self.indent + INDENT);
        child.reindent(indent);
        self.opened();
        let line = |spaces: usize| Node::Raw { source: format!("\n{}", " ".repeat(spaces)), is_text: true };
        match at {
            Some(at) => {
                self.nodes.insert(at, line(indent));
                self.nodes.insert(at + 1, Node::Element(child));
                at + 1
            }
            None => {
                self.nodes.retain(|n| !matches!(n, Node::Raw { source, is_text: true } if source.trim().is_empty()));
                let at = self.nodes.len();
                self.nodes.push(line(indent));
                self.nodes.push(Node::Element(child));
                self.nodes.push(line(self.indent));
                at + 1
            }
        }
    }

    /// Removes the children for which `which` says yes, with the white space before them.
    pub fn remove(&mut self, which: impl Fn(&Element) -> bool) {
        let mut index = 0;
        while index < self.nodes.len() {
            let goes = matches!(&self.nodes[index], Node::Element(e) if which(e));
            if !goes {
                index += 1;
                continue;
            }
            self.nodes.remove(index);
            let blank = |n: &Node| matches!(n, Node::Raw { source, is_text: true } if source.trim().is_empty());
            if index > 0 && blank(&self.nodes[index - 1]) {
                self.nodes.remove(index - 1);
                index -= 1;
            }
        }
    }

    // An empty element is about to get content: its tag can't stay `<x/>`.
    fn opened(&mut self) {
        if self.end.is_none() {
            self.start = None;
        }
    }

    fn reindent(&mut self, indent: usize) {
        let (old, new) = (self.indent, indent);
        self.indent = new;
        if old == new && self.nodes.is_empty() {
            return;
        }
        for node in &mut self.nodes {
            match node {
                Node::Element(child) => child.reindent(child.indent + new - old.min(child.indent + new)),
                Node::Raw { source, is_text: true } if source.trim().is_empty() && source.contains('\n') => {
                    let spaces = source.rsplit('\n').next().map_or(0, str::len);
                    *source = format!("\n{}", " ".repeat((spaces + new).saturating_sub(old)));
                }
                Node::Raw { .. } => {}
            }
        }
    }
}

/// Text with XML's own characters written as references, for attributes and content.
pub fn escaped(text: &str) -> String {
    escape(text).into_owned()
}

fn resolve(source: &str) -> Cow<'_, str> {
    if !source.contains("<![CDATA[") {
        return unescape(source).unwrap_or(Cow::Borrowed(source));
    }
    let mut text = String::new();
    let mut rest = source;
    while let Some((plain, behind)) = rest.split_once("<![CDATA[") {
        let (data, behind) = behind.split_once("]]>").unwrap_or((behind, ""));
        text.push_str(&unescape(plain).unwrap_or(Cow::Borrowed(plain)));
        text.push_str(data);
        rest = behind;
    }
    text.push_str(&unescape(rest).unwrap_or(Cow::Borrowed(rest)));
    Cow::Owned(text)
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let empty = self.nodes.is_empty() && self.end.is_none();
        match &self.start {
            Some(source) => f.write_str(source)?,
            None => {
                write!(f, "<{}", self.name)?;
                for (name, value) in &self.attributes {
                    write!(f, " {name}='{}'", escape(value.as_str()))?;
                }
                f.write_str(if empty { "/>" } else { ">" })?;
            }
        }
        for node in &self.nodes {
            match node {
                Node::Element(child) => child.fmt(f)?,
                Node::Raw { source, .. } => f.write_str(source)?,
            }
        }
        match &self.end {
            Some(source) => f.write_str(source),
            None if empty => Ok(()),
            None => write!(f, "</{}>", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ODD: &str = "<?xml version='1.0'?>\n<!-- by hand -->\n<domain  type = \"kvm\"\n  id='3'>\n\t<name>a &amp; b</name>\
        <x:own xmlns:x='urn:x'><x:deep/></x:own>\n  <!-- c --><description><![CDATA[<raw> & more]]> tail</description>\
        \n  <empty></empty><short />&#65;\n</domain>\n<!-- end -->\n";

    #[test]
    fn what_is_not_edited_comes_out_as_it_went_in() {
        let document = Document::parse(ODD).unwrap();
        assert_eq!(document.to_string(), ODD);
        let root = document.root();
        assert_eq!(root.attribute("type"), Some("kvm"));
        assert_eq!(root.find("name").unwrap().text(), "a & b");
        assert_eq!(root.find("description").unwrap().text(), "<raw> & more tail");
        assert!(root.find("x:own/x:deep").is_some());
    }

    #[test]
    fn an_edit_changes_nothing_else() {
        let mut document = Document::parse(ODD).unwrap();
        document.root_mut().find_or_make("name").set_text("c < d");
        assert_eq!(document.to_string(), ODD.replace("a &amp; b", "c &lt; d"));
        document.root_mut().set("type", "kvm");
        assert_eq!(document.to_string(), ODD.replace("a &amp; b", "c &lt; d"), "the same value is no edit");
        document.root_mut().set("id", "4'");
        assert!(document.to_string().contains("<domain type='kvm' id='4&apos;'>\n\t<name>"));
    }

    #[test]
    fn new_elements_stand_on_lines_of_their_own() {
        let mut document = Document::parse("<domain>\n  <os/>\n</domain>").unwrap();
        document.root_mut().find_or_make("os/kernel").set_text("/k");
        let disk = Element::new("disk").with("type", "file").with_child(Element::new("source").with("file", "/d"));
        document.root_mut().find_or_make("devices").push(disk);
        let want = "<domain>\n  <os>\n    <kernel>/k</kernel>\n  </os>\n  <devices>\n    <disk type='file'>\n      \
            <source file='/d'/>\n    </disk>\n  </devices>\n</domain>";
        assert_eq!(document.to_string(), want);
        document.root_mut().find_or_make("os").remove(|e| e.name() == "kernel");
        document.root_mut().remove(|e| e.name() == "devices");
        assert_eq!(document.to_string(), "<domain>\n  <os>\n  </os>\n</domain>");
    }

    #[test]
    fn siblings_stay_together() {
        let mut document = Document::parse("<d>\n <a/>\n <b/>\n</d>").unwrap();
        document.root_mut().push_beside(Element::new("a").with("n", "2"));
        assert_eq!(document.to_string(), "<d>\n <a/>\n <a n='2'/>\n <b/>\n</d>");
    }

    #[test]
    fn what_is_not_a_document_is_refused_with_its_line() {
        let deep = "<a>".repeat(DEEPEST + 1);
        for (source, line) in [
            ("", 1),
            ("no xml", 1),
            ("<a>\n<b>\n</a>", 3),
            ("<a>", 1),
            ("<a/><b/>", 1),
            ("<a/>text", 1),
            ("<a x='1' x='2'/>", 1),
            ("<!DOCTYPE a [<!ENTITY e 'x'>]>\n<a>&e;</a>", 1),
            ("<a>\n&unknown;</a>", 2),
            ("<a>\n<b x='&nope;'/></a>", 2),
            (&deep, 1),
        ] {
            let error = Document::parse(source).unwrap_err();
            assert_eq!(error.line, line, "{source:.40}: {error}");
        }
        assert!(Document::parse(&" ".repeat(LARGEST + 1)).is_err());
    }
}
